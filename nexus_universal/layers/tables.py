"""Rows looked up by index: learned ones, and the sinusoids that need no learning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.position import SinusoidPositions


class Table(nn.Module):
    """Rows looked up by index; `padding_row` never receives a gradient."""

    def __init__(self, rows: int, width: int, *, padding_row: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.padding_row = padding_row

    def start(self, text: Text, *, depth: int) -> None:
        """The pad row is zero."""
        if self.padding_row is not None:
            nn.init.zeros_(self.weight[self.padding_row])

    def forward(self, index: Int[Tensor, "*places"]) -> Float[Tensor, "*places width"]:
        return F.embedding(index, self.weight, self.padding_row)


class SinusoidTable(nn.Module):
    """sin and cos of t · 10000^(-2i/d) in the part's layout (arXiv 1706.03762, 3.5).

    Kept in float32 outside the module's buffers: a cast of the model must not round it twice.
    """

    def __init__(self, part: SinusoidPositions, width: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # whatever device the model is built on
            single = _closed_angles if part.closed else _single_angles
            angles = (single if part.closed or part.angles == "float32" else _angles)(part.count, width)
            sines, cosines = angles.sin().float(), angles.cos().float()
            if part.layout == "pairs":
                waves = torch.stack([sines, cosines], dim=-1).flatten(-2)[:, :width]
            else:
                halves = (sines, cosines[:, : width // 2])  # an odd width has one more sine
                waves = torch.cat(halves if part.layout == "sin_cos" else halves[::-1], dim=-1)
            if part.zero is not None:
                waves[part.zero] = 0
        self._kept = {waves.device: waves}

    def forward(self, index: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows seq width"]:
        if index.device not in self._kept:
            self._kept[index.device] = self._kept[torch.device("cpu")].to(index.device)
        return F.embedding(index, self._kept[index.device])


def _angles(rows: int, width: int) -> Float[Tensor, "rows pairs"]:
    """t · 10000^(-2i/d), in float64."""
    times, pairs = torch.arange(rows, dtype=torch.float64), torch.arange(0, width, 2, dtype=torch.float64)
    return times[:, None] / 10000.0 ** (pairs / width)


def _single_angles(rows: int, width: int) -> Float[Tensor, "rows pairs"]:
    """The same in float32: a view with strides, of which torch's sines have other last bits than of one without."""
    exponents = torch.arange(width).float() // 2 * 2 / width
    return (torch.arange(rows).float()[:, None] * (1 / torch.pow(10000, exponents)))[:, ::2]


def _closed_angles(rows: int, width: int) -> Float[Tensor, "rows pairs"]:
    """t · 10000^(-i/(d/2 - 1)), in float32."""
    fall = math.log(10000) / (width // 2 - 1)
    frequencies = torch.exp(torch.arange(width // 2).float() * -fall)
    return torch.arange(rows).float()[:, None] * frequencies
