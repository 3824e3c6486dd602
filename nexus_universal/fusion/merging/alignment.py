"""Re-basin: a model's units brought into the order of another's by matching their weights (arXiv 2209.04836).

What a model computes does not depend on the order of hidden units, heads and experts, but what is left of it in a
merge does. The residual's channels are left where they are: models with a common ancestor share them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.opened import OpenedCheckpoint
from nexus_universal.checkpoint.stream import read_rows
from nexus_universal.fusion.merging.symmetries import Axis, Symmetry, symmetries

Opened = OpenedCheckpoint[Any]


@dataclass
class Arrangement:
    """A model's tensors with units in other places; `moves` says by dimension where each entry is taken from.

    Of a stack of experts, in the dimensions behind theirs, each has an order of its own.
    """

    opened: Opened
    moves: dict[str, dict[int, Int[Tensor, "*experts size"]]] = field(default_factory=dict)
    moved: Counter[str] = field(default_factory=Counter)

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a tensor as they lie after the moves."""
        moves = self.moves.get(name, {})
        rows = self._rows(name, moves[0][start:stop]) if 0 in moves else read_rows(self.opened, name, start, stop)
        for dim, index in moves.items():
            if dim and index.dim() == 1:
                rows = rows.index_select(dim, index)
            elif dim:
                shape = (len(rows), index.shape[1], 1) if dim == 1 else (len(rows), 1, index.shape[1])
                rows = rows.take_along_dim(index[start:stop].view(shape[: rows.dim()]), dim)
        return rows

    def _rows(self, name: str, index: Int[Tensor, " rows"]) -> Tensor:
        slot = self.opened.slots[name]
        if slot.dim() > 2:  # a stack is put together of many tensors: of no more than are asked for
            return torch.cat([read_rows(self.opened, name, row, row + 1) for row in index.tolist()])
        return read_rows(self.opened, name, 0, slot.shape[0])[index]

    def move(self, symmetry: Symmetry, order: Int[Tensor, " units"]) -> None:
        """Put unit `order[u]` into the place of unit u."""
        self.moved[symmetry.kind] += int((order != torch.arange(len(order))).sum())
        for axis in symmetry.axes:
            shape = self.opened.slots[axis.name].shape
            moves = self.moves.setdefault(axis.name, {})
            if axis.expert is None:
                known = moves.setdefault(axis.dim, torch.arange(shape[axis.dim]))
            else:
                stack = moves.setdefault(axis.dim, torch.arange(shape[axis.dim]).repeat(shape[0], 1))
                known = stack[axis.expert]
            known[axis.positions.flatten()] = known[axis.positions[order].flatten()]

    def __str__(self) -> str:
        return "moved " + (", ".join(f"{count} {kind}" for kind, count in self.moved.items() if count) or "nothing")


def arranged(opened: Opened, reference: Opened) -> Arrangement:
    """The order in which a model's units come closest to a reference of the same n, layer by layer.

    Exact assignment takes memory of the square of the number of hidden units in float64.

    Raises:
        InputError: scipy, which solves the assignment, is not installed.
    """
    result, fixed = Arrangement(opened), Arrangement(reference)
    for symmetry in symmetries(opened.model):
        likeness: Tensor | float = 0.0
        for axis in symmetry.axes:
            if axis.matched:
                likeness = likeness + _units(fixed, axis) @ _units(result, axis).T
        assert isinstance(likeness, Tensor)
        result.move(symmetry, _assigned(likeness))
    return result


def _units(arrangement: Arrangement, axis: Axis) -> Float[Tensor, "units numbers"]:
    """Each unit's numbers in one tensor."""
    rows = arrangement.opened.slots[axis.name].shape[0]
    if axis.expert is None:
        tensor, dim = arrangement.read(axis.name, 0, rows), axis.dim
    else:
        tensor, dim = arrangement.read(axis.name, axis.expert, axis.expert + 1)[0], axis.dim - 1
    return tensor.float().movedim(dim, 0)[axis.positions].flatten(1)


def _assigned(likeness: Float[Tensor, "units units"]) -> Int[Tensor, " units"]:
    """The order of greatest likeness in sum, row by row."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise InputError(f"alignment needs scipy (pip install 'nexus-universal[merging]'): {error}") from None
    return torch.from_numpy(linear_sum_assignment(likeness.double().numpy(), maximize=True)[1])
