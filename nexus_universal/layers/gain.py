"""A learned number per channel."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text


class Gain(nn.Module):
    """Times a learned vector, to which another one may be added first."""

    def __init__(self, width: int, *, shifted: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width)) if shifted else None

    def start(self, text: Text, *, depth: int) -> None:
        """The identity."""
        nn.init.ones_(self.weight)

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return (x if self.bias is None else x + self.bias) * self.weight
