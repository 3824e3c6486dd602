"""One branch of a fused model with the face of a model that stands alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.generation.settings import GenerationSettings


@dataclass
class BranchModel:
    """Calls `model` for one capability; what it computes and remembers is that branch's alone."""

    model: Any
    capability: str
    n: ArchitectureParameter
    settings: GenerationSettings

    @property
    def device(self) -> Any:
        """Where the model is."""
        return self.model.device

    def __call__(self, *args: Any, **call: Any) -> Any:
        return self.model(*args, capability=self.capability, **call)

    def new_cache(self, batch_size: int = 1) -> Any:
        """An empty cache for calls of this branch."""
        return self.model.new_cache(batch_size, capability=self.capability)
