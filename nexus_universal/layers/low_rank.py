"""A product of two thin matrices."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.mixers import LowRank
from nexus_universal.layers.linear import Linear


class UniversalLowRank(nn.Module):
    """B(A x) (a learned augmented residual's, arXiv 2411.07501)."""

    def __init__(self, part: LowRank, *, d_model: int, d_out: int | None = None) -> None:
        super().__init__()
        self.down = Linear(d_model, part.rank, bias=False)
        self.up = Linear(part.rank, d_out or d_model, bias=False)

    def forward(self, x: Float[Tensor, "*lead d_hidden"]) -> Float[Tensor, "*lead d_out"]:
        return self.up(self.down(x))
