"""Rows looked up by index: learned ones, and the sinusoids that need no learning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Table(nn.Module):
    """Rows looked up by index; `padding_row` never receives a gradient."""

    def __init__(self, rows: int, width: int, *, padding_row: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.padding_row = padding_row

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        return F.embedding(index, self.weight, self.padding_row)


class SinusoidTable(nn.Module):
    """sin and cos of t · 10000^(-2i/d) in turn (arXiv 1706.03762, 3.5).

    Computed in float64 and kept in float32 outside the module's buffers: a cast of the model must not round it twice.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # whatever device the model is built on
            times, pairs = torch.arange(rows, dtype=torch.float64), torch.arange(0, width, 2, dtype=torch.float64)
            angles = times[:, None] / 10000.0 ** (pairs / width)
            waves = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[:, :width].float()
        self._kept = {waves.device: waves}

    def forward(self, index: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows seq width"]:
        if index.device not in self._kept:
            self._kept[index.device] = self._kept[torch.device("cpu")].to(index.device)
        return F.embedding(index, self._kept[index.device])
