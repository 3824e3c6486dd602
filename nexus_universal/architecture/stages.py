"""Where n can be cut into a pipeline of stages, and where it is best cut.

Between stages passes the residual alone. Layers that hand anything else on to later ones, or share weights with them,
stay in one stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.costs import Cost, total
from nexus_universal.architecture.count import costs
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import PerLayerInput
from nexus_universal.architecture.fusion import refuse_fused
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import fields_of
from nexus_universal.architecture.program import Program

if TYPE_CHECKING:
    from nexus_universal.architecture.parameter import ArchitectureParameter


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of layers; the first stage embeds, too, the last one has the head. `cost` is all of that together."""

    layers: range
    cost: Cost

    def __str__(self) -> str:
        return f"layers {self.layers.start}-{self.layers.stop - 1}"


def pipeline_stages(n: ArchitectureParameter, stages: int, *, context: int | None = None) -> tuple[Stage, ...]:
    """Cut n where the longest stage takes the fewest FLOPs per token at `context` positions (n's own, if not given).

    A tied head is a second table in the last stage, which its cost includes.

    Example:
        >>> [str(stage) for stage in pipeline_stages(n, 2)]
        ['layers 0-14', 'layers 15-27']

    Raises:
        InputError: fewer than one stage, or more than the layers allow: why is said; or a fused n.
    """
    refuse_fused(n, "a pipeline")
    if stages < 1:
        raise InputError(f"a pipeline of {stages} stages: at least 1 is needed")
    reasons = crossings(n)
    allowed = tuple(at for at, reason in enumerate(reasons) if at and reason is None)
    if 1 + len(allowed) < stages:
        why = next((f": {reason}" for reason in reasons if reason), "")
        raise InputError(f"{len(n.layers)} layers cannot be cut into {stages} stages{why}")
    before, *layers, behind = costs(n, context=context or n.text.context or 1, dtype=n.text.dtype or "float32")
    if n.head.tied and stages > 1:
        behind += Cost(parameters=n.embedding.rows * n.embedding.table_width)
    layers[0], layers[-1] = before + layers[0], layers[-1] + behind
    starts = _cuts([layer.flops for layer in layers], allowed, stages)
    ends = (*starts[1:], len(layers))
    return tuple(Stage(range(a, b), total(*layers[a:b])) for a, b in zip(starts, ends, strict=True))


def _cuts(flops: list[int], allowed: tuple[int, ...], stages: int) -> tuple[int, ...]:
    """The starts of the stages whose longest is shortest."""
    until = [0, *accumulate(flops)]

    @cache
    def best(start: int, left: int) -> tuple[float, tuple[int, ...]]:
        if left == 1:
            return until[-1] - until[start], (start,)
        found: tuple[float, tuple[int, ...]] = (float("inf"), ())
        for cut in (at for at in allowed if at > start):
            longest, starts = best(cut, left - 1)
            found = min(found, (max(longest, until[cut] - until[start]), (start, *starts)))
        return found

    return best(0, stages)[1]


@dataclass
class _Ties:
    """What a layer takes from others, and gives to others, beside the residual."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    emits: set[str] = field(default_factory=set)
    reuses: set[str] = field(default_factory=set)
    shares: set[str] = field(default_factory=set)
    chained: bool = False
    asks_ids: bool = False


def crossings(n: ArchitectureParameter) -> list[str | None]:
    """For every layer, why n cannot be cut before it; None where it can."""
    if n.streams:
        return ["several residual streams are filled and merged by one module"] * len(n.layers)
    ties = [_ties(layer) for layer in n.layers]
    return [_crossing(ties[:at], ties[at:]) for at in range(len(n.layers))]


def _crossing(left: list[_Ties], right: list[_Ties]) -> str | None:
    written: set[str] = {"x"}
    emitted: set[str] = set()
    for layer in right:
        if crossed := sorted(layer.reads - written):
            return f"layers read the register {crossed[0]!r}, which earlier ones hold"
        if crossed := sorted(layer.reuses - emitted):
            return f"layers reuse {crossed[0]!r}, which earlier ones emit"
        written |= layer.writes
        emitted |= layer.emits
    if crossed := sorted(set[str]().union(*(layer.shares for layer in (*left, *right)))):
        return f"layers share the weights {crossed[0]!r}"
    if all(any(layer.chained for layer in side) for side in (left, right)):
        return "routers read what earlier ones remember"
    if any(layer.asks_ids for layer in right):
        return "layers read token ids, or tables by token"
    return None


def _ties(layer: Program) -> _Ties:
    found = _Ties()
    _note_registers(layer, found, nested=False)
    for part in _parts(layer):
        found.reuses |= {name} - found.emits if (name := getattr(part, "reuse", None)) else set()
        found.emits |= {name} if (name := getattr(part, "emit", None)) else set()
        found.shares |= {name} if (name := getattr(part, "share", None)) else set()
        found.chained |= isinstance(part, ChainedExperts)
        found.asks_ids |= isinstance(part, PerLayerInput | HashedNgrams) or bool(getattr(part, "by_token", None))
    return found


def _note_registers(program: Program, found: _Ties, *, nested: bool) -> None:
    own = {"x"} if nested else set()  # a nested program's x is its own
    for step in program.steps:
        names = {branch.name for branch in step.branches} | {"u", "v"}
        found.reads |= set(step.read.registers) - found.writes - own - {"x"}
        for branch in step.branches:
            if isinstance(branch.part, Program):
                _note_registers(branch.part, found, nested=True)
        for write in step.writes:
            found.reads |= {term.source for term in write.terms} - names - found.writes - own - {"x"}
            own |= {write.register} if nested else set()
            found.writes |= set() if nested else {write.register}


def _parts(value: Any) -> Iterator[Part]:
    """A part and all parts in it."""
    if isinstance(value, Part):
        yield value
        for item in fields_of(value).values():
            yield from _parts(item)
    elif isinstance(value, tuple):
        for item in value:
            yield from _parts(item)
