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
from nexus_universal.checkpoint.stream import read_rows, row_count
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
        """Rows of a tensor as they lie after the moves, counted as `read_rows` does."""
        moves, slot = self.moves.get(name), self.opened.slots[name]
        if moves is None:
            return read_rows(self.opened, name, start, stop)
        if slot.dim() < 3:
            rows = moves[0][start:stop] if 0 in moves else slice(start, stop)
            found = read_rows(self.opened, name, 0, row_count(slot))[rows]
            if 1 not in moves:
                return found
            own = moves[1]  # a bias of each expert has an order for each
            return found[:, own] if own.dim() == 1 else found.take_along_dim(own[start:stop], 1)
        height = slot.shape[1]
        first, last = start // height, -(-stop // height)
        experts = [self._expert(name, expert) for expert in range(first, last)]
        return torch.cat(experts)[start - first * height : stop - first * height]

    def _expert(self, name: str, expert: int) -> Tensor:
        """One matrix of a stack, its rows and columns in their own order."""
        moves, height = self.moves[name], self.opened.slots[name].shape[1]
        taken = int(moves[0][expert]) if 0 in moves else expert
        matrix = read_rows(self.opened, name, taken * height, (taken + 1) * height)
        matrix = matrix[moves[1][expert]] if 1 in moves else matrix
        return matrix[:, moves[2][expert]] if 2 in moves else matrix

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
    slot = arrangement.opened.slots[axis.name]
    if axis.expert is None:
        tensor, dim = arrangement.read(axis.name, 0, row_count(slot)), axis.dim
    else:
        rows = row_count(slot) // slot.shape[0]
        tensor, dim = arrangement.read(axis.name, axis.expert * rows, (axis.expert + 1) * rows), axis.dim - 1
        tensor = tensor[0] if slot.dim() < 3 else tensor
    return tensor.float().movedim(dim, 0)[axis.positions].flatten(1)


def _assigned(likeness: Float[Tensor, "units units"]) -> Int[Tensor, " units"]:
    """The order of greatest likeness in sum, row by row."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise InputError(f"alignment needs scipy (pip install 'nexus-universal[merging]'): {error}") from None
    return torch.from_numpy(linear_sum_assignment(likeness.double().numpy(), maximize=True)[1])
