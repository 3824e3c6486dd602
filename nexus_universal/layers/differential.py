"""Differential attention: the difference of two mixtures, weighed by a learned number (arXiv 2410.05258)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.differential import Differential
from nexus_universal.layers.norms import UniversalNorm


class UniversalDifferential(nn.Module):
    """(1 - λ₀) · norm(a - λ b), a and b being mixtures of the first and the second half of the heads."""

    def __init__(self, part: Differential, *, head_dim: int, layer_index: int) -> None:
        super().__init__()
        self.initial = part.start(layer_index)
        self.norm = UniversalNorm.of(part.norm, 2 * head_dim)
        self.first_query = nn.Parameter(torch.empty(head_dim))
        self.first_key = nn.Parameter(torch.empty(head_dim))
        self.second_query = nn.Parameter(torch.empty(head_dim))
        self.second_key = nn.Parameter(torch.empty(head_dim))

    @staticmethod
    def halves(value: Float[Tensor, "batch kv_heads keys d"]) -> list[Float[Tensor, "batch kv_heads keys d"]]:
        """Each half of the value heads, twice in a row: what the two mixtures of every head are made of."""
        return [half.repeat(1, 2, 1, 1) for half in value.chunk(2, dim=1)]

    def forward(
        self, left: Float[Tensor, "batch seq heads d"], right: Float[Tensor, "batch seq heads d"]
    ) -> Float[Tensor, "batch seq half both"]:
        """`left` and `right` are the mixtures of the two halves of the values, for all heads."""
        a, b = torch.cat([left, right], dim=-1).chunk(2, dim=2)
        weight = self._exp(self.first_query, self.first_key, left) - self._exp(self.second_query, self.second_key, left)
        return (1 - self.initial) * self.norm(a - (weight + self.initial) * b)

    @staticmethod
    def _exp(query: Float[Tensor, " d"], key: Float[Tensor, " d"], like: Tensor) -> Float[Tensor, ""]:
        return torch.exp(torch.sum(query * key, dim=-1, dtype=torch.float32)).to(like.dtype)
