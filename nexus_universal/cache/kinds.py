"""In which form a cache holds what mixers declare."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.buffers import buffered
from nexus_universal.cache.rounding import rounded
from nexus_universal.cache.states import State

CacheKind = Literal["exact", "buffered", "int8", "int4"]

KINDS: dict[str, Callable[[State], State]] = {
    "exact": lambda state: state,
    "buffered": buffered,
    "int8": partial(rounded, bits=8),
    "int4": partial(rounded, bits=4),
}
"""What becomes of an empty state; one that a kind does not know stays as it is."""

ROUNDED = ("int8", "int4")
"""The kinds that do not give back what they were given."""


def in_kind(state: State, kind: str) -> State:
    """An empty state in the form that `kind` names.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"cache = {kind!r} (known: {', '.join(KINDS)})")
    return KINDS[kind](state)
