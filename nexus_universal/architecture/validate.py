"""Is this n one that can be meant? Types, enumerations, ranges, and the wiring of registers, shares and emitted states."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import fields_of
from nexus_universal.architecture.program import AltUp, Branch, HyperConnection, Program, Step
from nexus_universal.architecture.serial import type_hints

SIGNED_OR_ZERO = {"offset", "bos", "pad", "eos", "padding_row", "read", "write", "active", "identity_experts"}
"""Integer fields that may be 0 or less; every other integer counts something that must exist."""

Problem = tuple[str, Any, str]


def problems(root: Part) -> Iterator[Problem]:
    """Yield (path, value, what would be right) for everything wrong with `root`."""
    yield from _part_problems(root, "")
    layers = getattr(root, "layers", ())
    if layers:
        initial = {"x", "e"} | {register.name for register in getattr(root, "registers", ())}
        yield from _wiring(layers, initial, "layers")
        yield from _shares(layers)
        yield from _emitted(layers)
        streams = getattr(root, "streams", None)
        yield from _streams(layers, streams.count if streams else 1)


def _part_problems(value: Part, path: str) -> Iterator[Problem]:
    hints = type_hints(type(value))
    wrong = set()
    for name, item in fields_of(value).items():
        where = f"{path}.{name}" if path else name
        if not _fits(item, hints[name]):
            wrong.add(name)
            yield where, item, f"must be {_describe(hints[name])}"
            continue
        if type(item) is int and item < 1 and name not in SIGNED_OR_ZERO:
            yield where, item, "must be at least 1"
        for index, inner in enumerate(item if isinstance(item, tuple) else (item,)):
            if isinstance(inner, Part):
                yield from _part_problems(inner, f"{where}.{index}" if isinstance(item, tuple) else where)
    if not wrong:
        for name, message in value.problems():
            found = getattr(value, name, None) if "." not in name else None
            yield (f"{path}.{name}" if path else name), found, message


def _fits(item: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_fits(item, option) for option in typing.get_args(hint))
    if origin is Literal:
        return any(item == option and type(item) is type(option) for option in typing.get_args(hint))
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(item, tuple):
            return False
        if len(inner) == 2 and inner[1] is Ellipsis:
            return all(_fits(entry, inner[0]) for entry in item)
        return len(item) == len(inner) and all(_fits(entry, want) for entry, want in zip(item, inner, strict=True))
    if hint is float:
        return type(item) in (int, float)
    if hint in (int, bool, str):
        return type(item) is hint
    if hint is types.NoneType:
        return item is None
    return isinstance(item, hint)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if origin is tuple:
        return f"a tuple of {_describe(typing.get_args(hint)[0])}"
    return "None" if hint is types.NoneType else getattr(hint, "__name__", str(hint))


def _wiring(programs: tuple[Program, ...], known: set[str], path: str) -> Iterator[Problem]:
    """Every register that is read was written before; every term names something that exists at that step."""
    known = set(known)
    for index, program in enumerate(programs):
        for number, step in enumerate(program.steps):
            where = f"{path}.{index}.steps.{number}"
            yield from _step_wiring(step, known, where)
            known |= {write.register for write in step.writes}


def _step_wiring(step: Step, known: set[str], where: str) -> Iterator[Problem]:
    for register in step.read.registers:
        if register not in known:
            yield f"{where}.read.registers", register, f"must be written before it is read (so far: {_names(known)})"
    sources = known | {"u", "v"} | {branch.name for branch in step.branches}
    for number, write in enumerate(step.writes):
        for term in write.terms:
            if term.source not in sources:
                yield f"{where}.writes.{number}.terms", term.source, f"must name one of {_names(sources)}"
    for branch in step.branches:
        if isinstance(branch.part, Program):
            yield from _wiring((branch.part,), {"x", "e"}, f"{where}.{branch.name}")


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _all_branches(programs: tuple[Program, ...]) -> Iterator[tuple[str, Branch]]:
    for index, program in enumerate(programs):
        for branch in program.branches():
            yield f"layers.{index}.{branch.name}", branch
            if isinstance(branch.part, Program):
                for _, inner in _all_branches((branch.part,)):
                    yield f"layers.{index}.{branch.name}.{inner.name}", inner


def _shares(layers: tuple[Program, ...]) -> Iterator[Problem]:
    """Weights can be shared by equal parts only."""
    seen: dict[str, Part] = {}
    shared = [(path, branch.share, branch.part) for path, branch in _all_branches(layers) if branch.share]
    shared += [
        (f"layers.{i}", p.share, tuple(b.part for b in p.branches())) for i, p in enumerate(layers) if p.share
    ]  # type: ignore[misc]
    for path, name, value in shared:
        if seen.setdefault(name, value) != value:
            yield f"{path}.share", name, "names the weights of a different part: shared parts must be equal"


def _emitted(layers: tuple[Program, ...]) -> Iterator[Problem]:
    """What is reused was emitted by an earlier layer."""
    emitted: set[str] = set()
    for path, branch in _all_branches(layers):
        for holder in (branch.part, getattr(branch.part, "indexer", None)):
            reuse, emit = getattr(holder, "reuse", None), getattr(holder, "emit", None)
            if reuse and reuse not in emitted:
                yield f"{path}.reuse", reuse, f"must be emitted by an earlier layer (so far: {_names(emitted)})"
            if emit:
                emitted.add(emit)


def _streams(layers: tuple[Program, ...], count: int) -> Iterator[Problem]:
    for index, program in enumerate(layers):
        for number, step in enumerate(program.steps):
            connection = step.connection
            if isinstance(connection, HyperConnection | AltUp) and connection.streams != count:
                where = f"layers.{index}.steps.{number}.connection.streams"
                yield where, connection.streams, f"must equal streams.count = {count}"
