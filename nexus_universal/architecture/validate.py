"""Is this n one that can be meant? Types, enumerations, ranges, and the wiring of registers, shares and streams."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.ends import Embedding, Head
from nexus_universal.architecture.feed_forward import PerLayerInput
from nexus_universal.architecture.fusion import fusion_problems
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import anchor, fields_of
from nexus_universal.architecture.program import (
    AltUp,
    Branch,
    ChannelGatedStreams,
    GatedStreams,
    HyperConnection,
    Program,
    Step,
    StreamSlice,
    only_reuses,
)
from nexus_universal.architecture.serial import type_hints

SIGNED_OR_ZERO = {
    "offset",
    "uncounted",
    "zero",
    "bos",
    "pad",
    "eos",
    "padding_row",
    "read",
    "write",
    "active",
    "identity_experts",
    "always",
    "separator",
    "seed",
    "index",
    "global_blocks",
    "layer",
}
"""Integer fields that may be 0 or less; every other integer counts something that must exist."""

Problem = tuple[str, Any, str]


def problems(root: Part) -> Iterator[Problem]:
    """Yield (path, value, what would be right) for everything wrong with `root`."""
    yield from _part_problems(root, "", sound=set())
    yield from _whole_problems(root)


def _whole_problems(root: Part) -> Iterator[Problem]:
    """What no part can know: how a whole n is wired, and its members."""
    layers = getattr(root, "layers", ())
    if layers:
        embedding, registers = root.embedding, [register.name for register in root.registers]  # type: ignore[attr-defined]
        if len(set(registers)) != len(registers):
            yield "registers", tuple(registers), "must have different names"
        widths = dict.fromkeys(["x", "e", *registers], embedding.width)
        for index, layer in enumerate(layers):
            yield from _wiring(layer, widths, f"layers.{index}", embedding.width)
        if widths["x"] != embedding.width:
            yield "layers", widths["x"], f"leave an x of this width: it must be embedding.width = {embedding.width}"
        yield from _ends(embedding, root.head, layers)  # type: ignore[attr-defined]
        yield from _shares(layers)
        yield from _emitted(layers)
        streams = root.streams  # type: ignore[attr-defined]
        for index, layer in enumerate(layers):
            yield from _streams(layer, streams.count if streams else None, f"layers.{index}")
        yield from _per_layer(layers, embedding.per_layer)
        yield from _unread(layers, registers)
        yield from _chained(layers)
        yield from _looked_up(layers, embedding.vocab)
        yield from fusion_problems(root)  # type: ignore[arg-type]
        for index, member in enumerate(root.fusion.members if root.fusion else ()):  # type: ignore[attr-defined]
            where = f"fusion.members.{index}.n"
            yield from ((f"{where}.{path}", value, message) for path, value, message in _whole_problems(member.n))


def _ends(embedding: Embedding, head: Head, layers: tuple[Program, ...]) -> Iterator[Problem]:
    """Bands fit the vocabulary, a head that shares the token table needs one table, and one that skips layers some."""
    if head.bands:
        for name, message in head.bands.problems_in(vocab=embedding.vocab, width=embedding.width):
            yield f"head.{name}", getattr(head.bands, name.removeprefix("bands.")), message
    if head.skips == "reusing" and not only_reuses(layers[-1]):
        yield "head.skips", "reusing", "must be 'head' where the last layer keeps keys and values of its own"
    width = head.transform.width if head.transform else embedding.width
    if head.tied and not embedding.bands and width != embedding.table_width:
        yield (
            "head.tied",
            True,
            f"must be False: the head reads {width} numbers, rows have {embedding.table_width}",
        )
    if head.tied and embedding.spare:
        yield "head.tied", True, "must be False where the embedding has spare rows: the table is longer than the head"
    if head.spare and not embedding.spare:
        yield "head.spare", True, "needs embedding.spare"
    if head.tied and embedding.bands:
        yield "head.tied", True, "must be False where the embedding has bands: there is no single table to share"


def _part_problems(value: Part, path: str, program: str = "", *, sound: set[int]) -> Iterator[Problem]:
    """`sound` remembers parts without a problem by identity: layers share theirs, and each is looked at once."""
    if id(value) in sound:
        return
    clean = True
    for problem in _own_and_inner_problems(value, path, program, sound=sound):
        clean = False
        yield problem
    if clean:
        sound.add(id(value))


def _own_and_inner_problems(value: Part, path: str, program: str, *, sound: set[int]) -> Iterator[Problem]:
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
                place = f"{where}.{index}" if isinstance(item, tuple) else where
                readable = _readable(value, inner, index, path, program) or place
                yield from _part_problems(inner, readable, path, sound=sound)
    if not wrong:
        for name, message in value.problems():
            found = reduce(lambda holder, field: getattr(holder, field, None), name.split("."), value)
            yield (f"{path}.{name}" if path else name), found, message


def _readable(holder: Part, part: Part, index: int, path: str, program: str) -> str | None:
    """The path of a step, of a branch or of a branch's part, as `leaves` writes it; None for other parts."""
    if isinstance(holder, Program) and isinstance(part, Step) and all(isinstance(b, Branch) for b in part.branches):
        return f"{path}.{anchor(part, index)}"
    if isinstance(holder, Step) and isinstance(part, Branch):
        return f"{program}.{part.name}"
    return path if isinstance(holder, Branch) and part is holder.part else None


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
        return type(item) in (int, float) and item == item
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


def _wiring(program: Program, widths: dict[str, int], path: str, width: int) -> Iterator[Problem]:
    """Every register that is read was written before, every term exists at its step and is as wide as its neighbours.

    `widths` holds what has been written so far and is extended; `width` is what every branch gives.
    """
    for index, step in enumerate(program.steps):
        yield from _step_wiring(step, widths, path, f"{path}.{anchor(step, index)}", width)


def _step_wiring(step: Step, widths: dict[str, int], path: str, where: str, width: int) -> Iterator[Problem]:
    for name in step.read.registers:
        if name not in widths:
            yield f"{where}.read.registers", name, f"must be written before it is read (so far: {_names(widths)})"
            return
    read = {name: widths[name] for name in step.read.registers}
    if step.read.join != "concat" and len(set(read.values())) > 1:
        yield f"{where}.read.registers", step.read.registers, f"must be equally wide to be summed ({_widths(read)})"
    wide = step.read.width(widths)
    for branch in step.branches:
        if branch.name in widths:
            yield f"{where}.branches", branch.name, "names a branch, but is a register already"
        if isinstance(branch.part, Program):
            inner = {**widths, "x": wide}
            yield from _wiring(branch.part, inner, f"{path}.{branch.name}", width)
            if inner["x"] != width:
                yield f"{path}.{branch.name}", inner["x"], f"is the width of x at its end, and must be {width}"
    sources = {**widths, "u": wide, "v": wide, **{branch.name: width for branch in step.branches}}
    for number, write in enumerate(step.writes):
        for term in write.terms:
            if term.source not in sources:
                yield f"{where}.writes.{number}.terms", term.source, f"must name one of {_names(sources)}"
                return
        summed = {term.source: sources[term.source] for term in write.terms}
        if len(set(summed.values())) > 1:
            yield f"{where}.writes.{number}.terms", tuple(summed), f"must be equally wide ({_widths(summed)})"
        widths[write.register] = sources[write.register] = next(iter(summed.values()))


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _widths(widths: dict[str, int]) -> str:
    return ", ".join(f"{name} has {width}" for name, width in widths.items())


def _all_branches(programs: tuple[Program, ...]) -> Iterator[tuple[str, Branch]]:
    for index, program in enumerate(programs):
        yield from ((f"layers.{index}.{path}", branch) for path, branch in program.all_branches())


def _shares(layers: tuple[Program, ...]) -> Iterator[Problem]:
    """Weights can be shared by equal parts only."""
    seen: dict[str, Part] = {}
    shared = [(path, branch.share, branch.part) for path, branch in _all_branches(layers) if branch.share]
    whole = ((index, layer) for index, layer in enumerate(layers) if layer.share)
    shared += [(f"layers.{index}", layer.share, replace(layer, detached=False)) for index, layer in whole]
    for path, name, value in shared:
        if name and seen.setdefault(name, value) != value:
            yield f"{path}.share", name, "names the weights of a different part: shared parts must be equal"


def _emitted(layers: tuple[Program, ...]) -> Iterator[Problem]:
    """What is reused was emitted by an earlier layer, by a part of the same kind and shape."""
    emitted: dict[str, Any] = {}
    for path, branch in _all_branches(layers):
        for where, holder in ((path, branch.part), (f"{path}.indexer", getattr(branch.part, "indexer", None))):
            reuse, emit = getattr(holder, "reuse", None), getattr(holder, "emit", None)
            if reuse and reuse not in emitted:
                yield f"{where}.reuse", reuse, f"must be emitted by an earlier layer (so far: {_names(emitted)})"
            elif reuse:
                yield from _fits_emitter(where, holder, emitted[reuse])
            if emit:
                emitted[emit] = holder


def _fits_emitter(where: str, holder: Any, emitter: Any) -> Iterator[Problem]:
    if isinstance(emitter, Attention) != isinstance(holder, Attention):
        yield f"{where}.reuse", holder.reuse, f"is emitted by a {type(emitter).__name__}"
    elif isinstance(emitter, Attention):
        for name in ("kv_heads", "head_dim", "value_dim", "window", "keeps"):
            found, wanted = getattr(holder, name), getattr(emitter, name)
            if found != wanted:
                yield f"{where}.{name}", found, f"must be {wanted}, as where {holder.reuse!r} is emitted"


def _streams(program: Program, count: int | None, path: str) -> Iterator[Problem]:
    """Several streams are read through a connection, a single one never is; a nested program's x is a single one."""
    for index, step in enumerate(program.steps):
        where, connection = f"{path}.{anchor(step, index)}.connection", step.connection
        if connection and count is None:
            yield where, connection, "must be None: x is a single stream"
        elif (
            isinstance(connection, HyperConnection | GatedStreams | ChannelGatedStreams | AltUp)
            and connection.streams != count
        ):
            yield f"{where}.streams", connection.streams, f"must equal streams.count = {count}"
        elif isinstance(connection, StreamSlice) and count and max(connection.read, *connection.write) >= count:
            yield where, (connection.read, connection.write), f"must name streams below streams.count = {count}"
        touched = {*step.read.registers, *(term.source for write in step.writes for term in write.terms)}
        readers = [branch for branch in step.branches if isinstance(branch.part, HashedNgrams)]
        if readers:
            yield from _reads_streams(step, readers, count, path)
        elif connection is None and count and "x" in touched | {write.register for write in step.writes}:
            yield where, None, f"must not be None: x is {count} streams"
        for branch in step.branches:
            if isinstance(branch.part, Program):
                yield from _streams(branch.part, None, f"{path}.{branch.name}")


def _reads_streams(step: Step, readers: list[Branch], count: int | None, path: str) -> Iterator[Problem]:
    """What works on all streams at once stands in a step of its own kind: from x to x, without a connection."""
    for branch in readers:
        wanted, found = count or "the number of several", branch.part.streams  # type: ignore[union-attr]
        if found != count:
            yield f"{path}.{branch.name}.streams", found, f"must equal streams.count = {wanted}"
    from_x, to_x = step.read.registers == ("x",), {write.register for write in step.writes} == {"x"}
    if step.connection or not (from_x and to_x) or len(readers) < len(step.branches):
        yield f"{path}.{readers[0].name}", "all streams", "must be read from x and written to it without a connection"


def _per_layer(layers: tuple[Program, ...], table: Any) -> Iterator[Problem]:
    """A per-layer input is a slice of the per-layer embedding, and as wide."""
    inputs = [(path, b.part) for path, b in _all_branches(layers) if isinstance(b.part, PerLayerInput)]
    if table is not None and not inputs:
        yield "embedding.per_layer", table, "must be None: no layer reads it"
    for path, part in inputs:
        if table is None:
            yield f"{path}.width", part.width, "needs embedding.per_layer"
        elif part.width != table.width:
            yield f"{path}.width", part.width, f"must equal embedding.per_layer.width = {table.width}"


def _unread(layers: tuple[Program, ...], registers: list[str]) -> Iterator[Problem]:
    """A register with a learned start is read by some layer before it is written."""
    written: set[str] = set()
    read = {name for program in layers for name in _starts(program, written)}
    for name in registers:
        if name not in read:
            yield "registers", name, "is read by no layer" if name not in written else "is written before it is read"


def _starts(program: Program, written: set[str]) -> Iterator[str]:
    """What is read before it is written; `written` is extended, but what a nested program writes is its own."""
    for step in program.steps:
        yield from (name for name in step.read.registers if name not in written)
        for branch in step.branches:
            if isinstance(branch.part, Program):
                yield from _starts(branch.part, set(written))
        for write in step.writes:
            yield from (term.source for term in write.terms if term.source not in written)
            written.add(write.register)


def _chained(layers: tuple[Program, ...]) -> Iterator[Problem]:
    """A router that continues another comes after one."""
    parts = [(path, branch.part) for path, branch in _all_branches(layers) if isinstance(branch.part, ChainedExperts)]
    if parts and parts[0][1].chained:
        yield f"{parts[0][0]}.chained", True, "must be False in the first layer that has such experts: none come before"


def _looked_up(layers: tuple[Program, ...], vocab: int) -> Iterator[Problem]:
    """A table of choices has a row for every token."""
    for path, branch in _all_branches(layers):
        tokens = getattr(getattr(branch.part, "router", None), "by_token", None)
        if isinstance(branch.part, HashedNgrams) and branch.part.vocab != vocab:
            yield f"{path}.vocab", branch.part.vocab, f"must equal embedding.vocab = {vocab}"
        if tokens not in (None, vocab):
            yield f"{path}.router.by_token", tokens, f"must equal embedding.vocab = {vocab}"
