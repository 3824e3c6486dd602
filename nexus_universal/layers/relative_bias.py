"""Biases that queries give to their scores by distance, from profiles that all heads share."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.position import RelativeBias
from nexus_universal.layers.linear import Linear

Biases = Float[Tensor, "batch heads queries keys"]


class UniversalRelativeBias(nn.Module):
    """One vector per query and head mixes learned profiles of distance."""

    def __init__(self, part: RelativeBias, *, d_model: int, heads: int) -> None:
        super().__init__()
        self.part = part
        self.query = Linear(d_model, heads * part.width, bias=False)
        self.profiles = nn.Parameter(torch.empty(part.width, part.extent))

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        distance: Int[Tensor, "rows one queries keys"],
        growth: Float[Tensor, "rows one queries one"] | None,
    ) -> Biases:
        """The biases of every query at x for keys so many positions before it, in the model's dtype."""
        by_distance = (self.query(x).unflatten(-1, (-1, self.part.width)) @ self.profiles).transpose(1, 2)
        index = distance.clamp(0, self.part.extent - 1).expand(*by_distance.shape[:2], -1, -1)
        bias = by_distance.gather(-1, index)
        bias = bias.masked_fill((distance < 0) | (distance >= self.part.extent), 0.0)
        return bias if growth is None else (bias.float() * growth).to(bias.dtype)
