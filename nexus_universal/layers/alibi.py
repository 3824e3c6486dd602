"""Attention with linear biases (arXiv 2108.12409): slopes per head, and the masks that carry them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nexus_universal.architecture.position import Alibi
from nexus_universal.layers.masks import Extent, Mask, refused, trailing


class UniversalAlibi:
    """The biases of one kind of layer; like rotary frequencies, its slopes are no buffers that a cast would round."""

    def __init__(self, part: Alibi, *, heads: int, scale: float) -> None:
        self.part, self.heads, self.scale = part, heads, scale
        with torch.device("cpu"):  # whatever device the model is built on
            self._slopes = {torch.device("cpu"): slopes(heads, reciprocal=part.slopes == "reciprocals")}

    def masked(
        self, mask: Mask, extent: Extent, padding: Bool[Tensor, "batch total"] | None, dtype: torch.dtype
    ) -> Float[Tensor, "batch heads queries keys"]:
        """The biases of every key, and the lowest number where `mask` hides it; pads do not count as positions."""
        keys, end = extent.key_places(mask.device)[None], extent.query_places(mask.device)[None, -1:]
        if padding is not None:
            counts = padding | trailing(padding) if self.part.origin == "last" else padding
            positions = (counts.long().cumsum(-1) - 1) * counts
            keys, end = positions[:, keys[0].clamp(min=0)], positions[:, end[0]]
        if self.part.origin == "last":
            keys = keys - end
        width = torch.promote_types(torch.float32, dtype) if self.part.rounding == "none" else dtype
        bias = self._biases(keys, width)
        return torch.masked_fill(bias, refused(mask), torch.finfo(dtype).min)

    def _biases(self, positions: Int[Tensor, "rows keys"], dtype: torch.dtype) -> Float[Tensor, "rows heads one keys"]:
        if positions.device not in self._slopes:
            self._slopes[positions.device] = self._slopes[torch.device("cpu")].to(positions.device)
        by_head = self._slopes[positions.device][:, None]
        if self.part.rounding == "bfloat16":
            by_head = by_head.bfloat16()
        bias = (by_head * positions[:, None]).to(dtype)[:, :, None]
        return bias / (1 / self.scale) if self.part.scaled else bias  # divided by √d: a product has other bits


def slopes(heads: int, *, reciprocal: bool = False) -> Float[Tensor, " heads"]:
    """2^(-8h/whole) for the largest power of two, then every second slope of twice as many."""
    whole = 2 ** math.floor(math.log2(heads))
    if reciprocal:
        all_of_twice = _reciprocals(2 * whole)
        return _reciprocals(whole) if whole == heads else torch.cat([all_of_twice[1::2], all_of_twice[::2]])[:heads]
    found = torch.pow(_base(whole), torch.arange(1, whole + 1, dtype=torch.int32))
    if whole == heads:
        return found
    between = torch.arange(1, 1 + 2 * (heads - whole), 2, dtype=torch.int32)
    return torch.cat([found, torch.pow(_base(2 * whole), between)])


def _reciprocals(heads: int) -> Float[Tensor, " heads"]:
    return 1.0 / torch.pow(2, torch.arange(1, heads + 1).float() * (8 / heads))


def _base(heads: int) -> Float[Tensor, ""]:
    return torch.tensor(2 ** (-(2 ** -(math.log2(heads) - 3))), dtype=torch.float32)
