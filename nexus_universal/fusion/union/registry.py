"""What each model of a union can do and what it takes, and which is the best for a task within a budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from nexus_universal.architecture.errors import InputError


class Capability(StrEnum):
    """What a model can be asked for."""

    REASONING = "reasoning"
    VISION = "vision"
    TTS = "tts"
    ASR = "asr"
    IMAGE_EDIT = "image_edit"
    VIDEO_GEN = "video_gen"
    AGENT = "agent"
    IMG_GEN = "img_gen"

    @classmethod
    def _missing_(cls, value: object) -> Capability:
        raise InputError(f"capability {value!r} (known: {', '.join(cls)})")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model: what it does, what it reads and writes, and the bytes of its weights when they are loaded."""

    model_id: str
    capabilities: frozenset[Capability]
    nbytes: int
    huggingface_path: str = ""
    precision: str = "float32"
    quantization_level: str | None = None
    is_frozen: bool = True
    input_modalities: frozenset[str] = frozenset({"text"})
    output_modalities: frozenset[str] = frozenset({"text"})

    @property
    def vram_required_gb(self) -> float:
        """`nbytes` in units of 10⁹."""
        return self.nbytes / 1e9


class ModelRegistry:
    """Models by name, in the order in which they were added."""

    def __init__(self, specs: Iterable[ModelSpec] = ()) -> None:
        self._specs: dict[str, ModelSpec] = {}
        for spec in specs:
            self.add(spec)

    def add(self, spec: ModelSpec) -> None:
        """One more.

        Raises:
            InputError: there is one of this name.
        """
        if spec.model_id in self._specs:
            raise InputError(f"model {spec.model_id!r} is registered already")
        self._specs[spec.model_id] = spec

    def __iter__(self) -> Iterator[ModelSpec]:
        return iter(self._specs.values())

    def __len__(self) -> int:
        return len(self._specs)

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._specs

    def __getitem__(self, model_id: str) -> ModelSpec:
        if model_id not in self._specs:
            raise InputError(f"model {model_id!r} (known: {', '.join(self._specs) or 'none'})")
        return self._specs[model_id]

    def get_models_for_capability(self, capability: Capability | str) -> list[ModelSpec]:
        """All that have it, in their order."""
        wanted = Capability(capability)
        return [spec for spec in self if wanted in spec.capabilities]

    def get_optimal_model(self, capability: Capability | str, *, budget_bytes: int | None = None) -> ModelSpec:
        """The largest that has it and fits the budget: what a model knows grows with its parameters (2404.05405).

        Raises:
            InputError: none has it, or the smallest that does takes more.
        """
        wanted = Capability(capability)
        able = self.get_models_for_capability(wanted)
        if not able:
            raise InputError(f"no model has the capability {wanted.value} (there are {self._offered()})")
        fitting = [spec for spec in able if budget_bytes is None or spec.nbytes <= budget_bytes]
        if not fitting:
            least = min(spec.nbytes for spec in able)
            raise InputError(f"{wanted.value} within {budget_bytes:,} bytes: the smallest model takes {least:,}")
        return max(fitting, key=lambda spec: spec.nbytes)

    def _offered(self) -> str:
        return ", ".join(dict.fromkeys(each.value for spec in self for each in sorted(spec.capabilities))) or "none"
