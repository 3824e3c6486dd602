"""Layers that leave out positions whose logits are not asked for."""

from __future__ import annotations

from torch import Tensor

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import only_reuses
from nexus_universal.layers.call import Call


def first_skipped(n: ArchitectureParameter) -> int | None:
    """The layer from which on positions whose logits are not asked for are left out; None where there is none."""
    if n.head.skips == "head":
        return None
    return max((index + 1 for index, layer in enumerate(n.layers) if not only_reuses(layer)), default=0)


def kept_early(call: Call, logits_to_keep: int | Tensor) -> int:
    """How many last positions go on, 0 for all: several need a mask, or the kernel takes them for the first."""
    if isinstance(logits_to_keep, Tensor) or call.positions.shape[1] == 1:
        return 0
    return logits_to_keep if logits_to_keep == 1 or all(mask is not None for mask in call.masks) else 0
