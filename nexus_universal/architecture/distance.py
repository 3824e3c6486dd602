"""How far two n's are apart: the fewest edits of leaves, a metric."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import leaves
from nexus_universal.architecture.program import Program

Leaves = Mapping[str, Any]

SMALLEST_EDIT = 1e-9
"""No two numbers are closer, however near their logarithms: different n's are apart."""


def leaf_distance(left: Any, right: Any) -> float:
    """0 for equal leaves, |log₂(left / right)| for two numbers of the same sign, and at most 1, an edit.

    So a doubled width counts as one edit, and a width 10 % larger as a seventh of one. Cut off at 1 it is a metric on
    numbers, and so it stays with everything else 1 away from all that it is not.
    """
    if left == right:
        return 0.0
    if _is_number(left) and _is_number(right) and left and right and 0.5 < left / right < 2:
        return max(SMALLEST_EDIT, abs(math.log2(left / right)))
    return 1.0


def distance(left: Part, right: Part, *, ends: tuple[str, ...]) -> float:
    """Edits of the leaves of the fields `ends`, plus the cheapest alignment of the layers of two n's.

    The layers' share is a Levenshtein distance (1966): a layer is changed at the price of its leaves' edits, or put in
    or taken out at one edit per leaf. All prices are distances in one metric space, of which no layer is the empty
    point; so the cheapest alignment obeys the triangle inequality, too.
    """
    both = ((dict(leaves(getattr(n, name), name)) for n in (left, right)) for name in ends)
    apart = sum(_edits(*pair) for pair in both)
    return apart + _alignment(getattr(left, "layers"), getattr(right, "layers"))  # noqa: B009


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _edits(left: Leaves, right: Leaves) -> float:
    """A leaf that only one has is one edit."""
    shared = left.keys() & right.keys()
    return math.fsum(leaf_distance(left[path], right[path]) for path in shared) + len(left.keys() ^ right.keys())


@lru_cache(maxsize=4096)
def _layer_leaves(layer: Program) -> Leaves:
    return dict(leaves(layer))


def _alignment(left: tuple[Program, ...], right: tuple[Program, ...]) -> float:
    """The cheapest way from one list of layers to the other, row by row of the usual table."""
    priced: dict[tuple[Program, Program], float] = {}

    def change(old: Program, new: Program) -> float:
        if old is new:
            return 0.0
        if (old, new) not in priced:
            priced[old, new] = _edits(_layer_leaves(old), _layer_leaves(new))
        return priced[old, new]

    inserted = [len(_layer_leaves(layer)) for layer in right]
    above = [0.0]
    for cost in inserted:
        above.append(above[-1] + cost)
    for old in left:
        removed = len(_layer_leaves(old))
        row = [above[0] + removed]
        for at, new in enumerate(right):
            row.append(min(above[at] + change(old, new), above[at + 1] + removed, row[at] + inserted[at]))
        above = row
    return above[-1]
