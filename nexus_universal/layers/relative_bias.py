"""Biases that queries give to their scores by distance, from profiles that all heads share."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.position import RelativeBias
from nexus_universal.layers.length_limit import LengthLimit

Biases = Float[Tensor, "batch query_heads queries keys"]


class UniversalRelativeBias(nn.Module):
    """One vector per query and head mixes learned profiles of distance."""

    def __init__(self, part: RelativeBias, *, heads: int) -> None:
        super().__init__()
        self.part, self.heads = part, heads
        self.limit = LengthLimit(part.length_limit, (heads, part.width)) if part.length_limit is not None else None
        self.profiles = nn.Parameter(torch.empty(part.width, part.extent))

    def forward(
        self,
        mixing: Float[Tensor, "batch queries *rows"],
        distance: Int[Tensor, "rows one queries keys"],
        growth: Float[Tensor, "_ one queries one"] | None,
    ) -> Biases:
        """The biases of every query for keys so many positions before it, in the model's dtype."""
        mixing = mixing.reshape(*mixing.shape[:2], self.heads, -1)
        if self.limit is not None:
            mixing = self.limit(mixing)
        if growth is not None and self.part.grown == "mixing":
            mixing = (mixing.float() * growth.transpose(1, 2)).to(mixing.dtype)
        by_distance = (mixing @ self.profiles).transpose(1, 2)
        index = distance.clamp(0, self.part.extent - 1).expand(*by_distance.shape[:2], -1, -1)
        bias = by_distance.gather(-1, index)
        bias = bias.masked_fill((distance < 0) | (distance >= self.part.extent), 0.0)
        return bias if growth is None or self.part.grown == "mixing" else (bias.float() * growth).to(bias.dtype)
