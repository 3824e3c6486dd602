"""References that keep states in a form of their own, or change with the first call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from nexus_universal.parity.quirks import quirks


@dataclass
class Given:
    """The states that a first call has given, if there was one."""

    states: Any = None

    def row(self, index: int) -> Given:
        """Those of one row, in the same memory: they are written in place."""
        return Given([state[index : index + 1] for state in self.states])


def remembers(model: Any) -> bool:
    """Whether a call without a cache makes states all the same; no gradient goes through those."""
    return quirks(model.config.model_type).needs_states and model.dtype in (torch.bfloat16, torch.float16)


def rescaled(config: Any) -> dict[str, float]:
    """What the first call has multiplied weights by: gradients are those of what they have become."""
    every = getattr(config, "rescale_every", 0)
    return {
        name.format(i=index): 2.0 ** -(index // every)
        for name in quirks(config.model_type).divides
        for index in range(config.num_hidden_layers if every > 0 else 0)
    }
