"""Mutants of n, by reflection: every field of every part, one changed value at a time, in one place."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import anchor
from nexus_universal.architecture.program import Branch, Program, Step
from nexus_universal.architecture.serial import type_hints

GIVEN_FLOAT, GIVEN_INT = 1.1, 7
"""What an optional number becomes that is None all over n: a factor that is not neutral, a length below a sample's."""

KINDS: dict[str, str] = {
    "number": "a number × 1.1",
    "whole number": "a whole number + 1",
    "flag": "a flag flipped",
    "choice": "each other value of an enumeration",
    "name": "each other name that the layer uses",
    "removed": "a part or an optional value → None",
    "given": "None → a value",
    "dropped": "one of several left out, or put in",
    "order": "two neighbours of several swapped",
}
"""The kinds of changes, in words for people."""

Change = tuple[str, str, Any]
Rebuild = Callable[[Any], Any]


@dataclass(frozen=True)
class Place:
    """One field of one part of n; `put` makes the n that differs from it in this field alone."""

    path: str
    holder: Part
    field: str
    put: Rebuild

    @property
    def value(self) -> Any:
        return getattr(self.holder, self.field)

    @property
    def hint(self) -> Any:
        return type_hints(type(self.holder))[self.field]

    @property
    def label(self) -> str:
        """`Attention.window`: the field, wherever it stands."""
        return f"{type(self.holder).__name__}.{self.field}"


@dataclass(frozen=True)
class Mutant:
    """An n with one field changed. `change` says how without the old value, so that mutants of several n's match.

    `later` is the same change in the last layer that holds an equal part; None where there is only one.
    """

    path: str
    change: str
    kind: str
    place: Place
    n: ArchitectureParameter
    later: ArchitectureParameter | None = None

    @property
    def field(self) -> str:
        """`Attention.window`: the field, wherever it stands."""
        return self.place.label

    @property
    def part(self) -> Any:
        """The part that holds the field, as it was."""
        return self.place.holder

    @property
    def name(self) -> str:
        return f"{self.path} {self.change}"


def mutants(n: ArchitectureParameter) -> Iterator[Mutant]:
    """Every mutant of n.

    Layers that hold an equal part are changed in the first of them. `text` and `origin`, which change no bit of a
    forward pass, are outside, as they are outside equality.
    """
    found = places(n)
    elsewhere: dict[str, Any] = {}
    for same in found:
        if same[0].value is not None:
            elsewhere.setdefault(same[0].label, same[0].value)
    names = [{place.value for place in _walk(layer, "", _unused) if place.hint is str} for layer in n.layers]
    for first, *others in found:
        used = names[int(first.path.split(".")[1])] if first.path.startswith("layers.") else set()
        for kind, change, new in changes(first, names=used, elsewhere=elsewhere.get(first.label)):
            later = others[-1].put(new) if others else None
            yield Mutant(first.path, change, kind, first, first.put(new), later)


def places(n: ArchitectureParameter) -> list[list[Place]]:
    """Every field of n: the places of equal parts at the same place of several layers stand together."""
    found: dict[tuple[str, Part, str], list[Place]] = {}
    for place in _walk(n, "", _unused):
        head, _, rest = place.path.partition(".")
        inside = rest.partition(".")[2] if head == "layers" else place.path
        found.setdefault((inside, place.holder, place.field), []).append(place)
    return list(found.values())


def _unused(new: Any) -> Any:
    return new


def _walk(holder: Part, path: str, put: Rebuild, program: str = "") -> Iterator[Place]:
    """The fields of a part and of the parts inside it; `put` builds n anew from another `holder`."""
    for field in dataclasses.fields(holder):  # type: ignore[arg-type]
        if not field.compare:
            continue
        value = getattr(holder, field.name)
        here = f"{path}.{field.name}" if path else field.name
        put_field = _put_field(holder, field.name, put)
        yield Place(here, holder, field.name, put_field)
        for index, inner in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(inner, Part):
                put_inner = _put_item(value, index, put_field) if isinstance(value, tuple) else put_field
                below = f"{here}.{index}" if isinstance(value, tuple) else here
                below = _readable(holder, inner, index, path=path, program=program) or below
                yield from _walk(inner, below, put_inner, path if isinstance(holder, Program) else program)


def _put_field(holder: Part, name: str, put: Rebuild) -> Rebuild:
    return lambda new: put(dataclasses.replace(holder, **{name: new}))  # type: ignore[type-var]


def _put_item(items: tuple[Any, ...], index: int, put: Rebuild) -> Rebuild:
    return lambda new: put((*items[:index], new, *items[index + 1 :]))


def _readable(holder: Part, inner: Part, index: int, *, path: str, program: str) -> str | None:
    """What paths leave out: steps are called by their first branch, branches by name, and a branch's part is itself."""
    if isinstance(holder, Program) and isinstance(inner, Step):
        return f"{path}.{anchor(inner, index)}"
    if isinstance(holder, Step) and isinstance(inner, Branch):
        return f"{program}.{inner.name}"
    return path if isinstance(holder, Branch) and inner is holder.part else None


def changes(place: Place, *, names: set[str], elsewhere: Any = None) -> Iterator[Change]:
    """What a field is changed to, by its declared type and its value."""
    hint, value = place.hint, place.value
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    choices = [
        choice for option in options if typing.get_origin(option) is Literal for choice in typing.get_args(option)
    ]
    if value is None:
        yield from _given(options, choices, elsewhere)
        return
    if type(None) in options:
        yield "removed", "= None", None
    if isinstance(value, bool):
        yield "flag", "flipped", not value
    elif value in choices:
        yield from (("choice", f"= {choice!r}", choice) for choice in choices if choice != value)
    elif isinstance(value, int | float):
        yield _larger(value, whole=float not in options)
    elif isinstance(value, str):
        yield from (("name", f"= {name!r}", name) for name in sorted(names - {value}))
    elif isinstance(value, tuple):
        yield from _several(value, options)


def _given(options: tuple[Any, ...], choices: list[Any], elsewhere: Any) -> Iterator[Change]:
    """A value where there is none: what the same field holds elsewhere in n, else a number by its type."""
    if elsewhere is not None:
        yield "given", "as elsewhere in n", elsewhere
    elif choices:
        yield from (("given", f"= {choice!r}", choice) for choice in choices)
    elif float in options:
        yield "given", f"= {GIVEN_FLOAT}", GIVEN_FLOAT
    elif int in options:
        yield "given", f"= {GIVEN_INT}", GIVEN_INT


def _larger(value: float, *, whole: bool) -> Change:
    if whole:
        return "whole number", "+ 1", int(value) + 1
    if value == 0 or math.isinf(value):
        return "number", f"= {GIVEN_FLOAT}", GIVEN_FLOAT
    return "number", "× 1.1", value * 1.1


def _several(values: tuple[Any, ...], options: tuple[Any, ...]) -> Iterator[Change]:
    """Numbers are changed one by one; of names and parts, one is left out, a missing one put in, neighbours swapped."""
    hint = next(option for option in options if typing.get_origin(option) is tuple)
    inner = typing.get_args(hint)[0]
    for index, item in enumerate(values):
        if isinstance(item, int | float):
            kind, change, new = _larger(item, whole=inner is int)
            yield kind, f"[{index}] {change}", (*values[:index], new, *values[index + 1 :])
        else:
            called = repr(item) if isinstance(item, str) else f"[{index}]"
            yield "dropped", f"without {called}", (*values[:index], *values[index + 1 :])
    if typing.get_origin(inner) is Literal:
        missing = (choice for choice in typing.get_args(inner) if choice not in values)
        yield from (("dropped", f"with {choice!r}", (*values, choice)) for choice in missing)
    for index, (left, right) in enumerate(itertools.pairwise(values)):
        if isinstance(left, Part) and left != right:
            swapped = (*values[:index], right, left, *values[index + 2 :])
            yield "order", f"[{index}] and [{index + 1}] swapped", swapped
