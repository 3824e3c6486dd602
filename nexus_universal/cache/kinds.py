"""In which form a cache holds what mixers declare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.buffers import buffered
from nexus_universal.cache.cache import Cache
from nexus_universal.cache.rounding import rounded
from nexus_universal.cache.states import State
from nexus_universal.cache.static import StaticCache, refuse_loose

CacheKind = Literal["exact", "buffered", "static", "int8", "int4"]

KINDS: dict[str, Callable[[State], State]] = {
    "exact": lambda state: state,
    "buffered": buffered,
    "static": lambda state: state,
    "int8": partial(rounded, bits=8),
    "int4": partial(rounded, bits=4),
}
"""What becomes of an empty state; one that a kind does not know stays as it is."""

ROUNDED = ("int8", "int4")
"""The kinds that do not give back what they were given."""


def empty(states: Mapping[str, State], kind: str, *, signature: str) -> Cache:
    """A cache of empty states in the form that `kind` names.

    Raises:
        InputError: there is no such kind, or one of the states cannot have it.
    """
    if kind not in KINDS:
        raise InputError(f"cache = {kind!r} (known: {', '.join(KINDS)})")
    if kind == "static":
        refuse_loose(states)
    made = StaticCache if kind == "static" else Cache
    return made({key: KINDS[kind](state) for key, state in states.items()}, signature=signature)
