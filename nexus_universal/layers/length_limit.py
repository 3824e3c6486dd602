"""Vectors scaled down to a length where they are longer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text

SPARE = 1e-6
"""Added to every length, so that none is 0."""


class LengthLimit(nn.Module):
    """Each head's vector, times learned numbers where a shape [heads, width] is given, no longer than `most`."""

    def __init__(self, most: float, shape: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.most = most
        self.scale = nn.Parameter(torch.empty(shape)) if shape else None

    def start(self, text: Text, *, depth: int) -> None:
        """Heads are as long as they are."""
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def forward(self, x: Float[Tensor, "batch seq heads width"]) -> Float[Tensor, "batch seq heads width"]:
        wide = x.float() if self.scale is None else x.float() * self.scale.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return (wide * (self.most / (length + SPARE)).clamp(max=1.0)).to(x.dtype)
