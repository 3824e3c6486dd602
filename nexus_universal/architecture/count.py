"""Parameters, FLOPs and cache bytes of a whole n, exactly and without building it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nexus_universal.architecture.composed_costs import cost
from nexus_universal.architecture.connection_costs import gate_cost
from nexus_universal.architecture.costs import (
    Cost,
    Place,
    attention_products,
    linear,
    norm_cost,
    projection_rows,
    total,
    weights,
)
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import deepest_taps
from nexus_universal.architecture.position import LearnedPositions, SteppedScaling
from nexus_universal.architecture.program import Branch, Program, Step

if TYPE_CHECKING:
    from nexus_universal.architecture.ends import Embedding, Head, Streams
    from nexus_universal.architecture.fusion import Join
    from nexus_universal.architecture.parameter import ArchitectureParameter

LENGTH_BYTES = 8
BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}

GAIN_WEIGHTS = {"none": 0, "number": 0, "scale": 1, "shift_scale": 2}
"""Learned vectors of a term."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one n costs, for one more token with `context` positions visible, itself included.

    `parameters` are those that a built model's `parameters()` yields: tied and shared weights once; buffers (selection
    biases, routing tables, Gemma 4's layer scalars) not. `active_parameters` leaves out the experts that a token does
    not visit; of experts that do nothing it is assumed that none was chosen.

    `flops_per_token` is what `torch.utils.flop_counter` counts for that token: 2 per multiply-add in matrix products,
    attention (dense over what is visible, masked or not) and convolutions; elementwise work is not counted. The
    counter itself knows neither grouped matrix products nor the CPU's fused attention: give it other kernels to count.

    After T positions, T at least every window, one sequence remembers T · `cache_bytes_per_token` and
    `fixed_state_bytes`: the latter holds full windows, convolutions and recurrent states (those of the delta rule and
    of state spaces in float32).

    Of branches that a call chooses from ("route") all parameters are counted, and else the most that one can cost.
    """

    parameters: int
    active_parameters: int
    flops_per_token: int
    cache_bytes_per_token: int | float
    fixed_state_bytes: int
    context: int
    dtype: str

    def __str__(self) -> str:
        active = f" ({_short(self.active_parameters)} active)" if self.active_parameters != self.parameters else ""
        fixed = f" + {_short(self.fixed_state_bytes, 'B')} fixed" if self.fixed_state_bytes else ""
        flops = f"{_short(self.flops_per_token, 'FLOP')} per token at context {self.context}"
        return (
            f"{_short(self.parameters)} parameters{active} · {flops} · cache "
            f"{_short(self.cache_bytes_per_token, 'B')} per token{fixed} ({self.dtype})"
        )


def _short(number: float, unit: str = "") -> str:
    """12345678 as `12.3 M`, or `12.3 MB`."""
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}{unit}"
    return f"{number:g} {unit}".rstrip()


def count(n: ArchitectureParameter, *, context: int, dtype: str) -> Count:
    """Count n for one token at `context` positions.

    Raises:
        InputError: no position is visible, or the dtype is not known.
    """
    if n.fusion is not None:
        first, *others = (count(branch, context=context, dtype=dtype) for branch in n.branches.values())
        return _fused([_with_donors(first, n), *others], n.fusion.join)
    whole = total(*costs(n, context=context, dtype=dtype))
    growing = whole.growing
    return Count(
        parameters=whole.parameters,
        active_parameters=whole.parameters - whole.idle,
        flops_per_token=whole.flops,
        cache_bytes_per_token=int(growing) if growing.denominator == 1 else float(growing),
        fixed_state_bytes=whole.fixed,
        context=context,
        dtype=dtype,
    )


def _with_donors(own: Count, n: ArchitectureParameter) -> Count:
    """The first branch's costs with those of the layers of others that its bridges read."""
    for name, depth in deepest_taps(n).items():
        donor = n.branches[name]
        width = donor.embedding.width
        place = Place(width=width, model=width, context=own.context, bytes=BYTES[own.dtype])
        read = total(
            _embedding_cost(donor.embedding, len(donor.layers)),
            weights(width * len(donor.registers)),
            *_layer_costs(replace(donor, layers=donor.layers[:depth]), place),
        )
        growing = own.cache_bytes_per_token + read.growing
        own = replace(
            own,
            active_parameters=own.active_parameters + read.parameters - read.idle,
            flops_per_token=own.flops_per_token + read.flops,
            cache_bytes_per_token=int(growing) if growing == int(growing) else float(growing),
            fixed_state_bytes=own.fixed_state_bytes + read.fixed,
        )
    return own


def _fused(branches: list[Count], join: Join) -> Count:
    """All of the branches' costs, or those of the dearest where one is chosen."""
    joined = max if join == "route" else sum
    names = ("active_parameters", "flops_per_token", "cache_bytes_per_token", "fixed_state_bytes")
    costs = {name: joined(getattr(branch, name) for branch in branches) for name in names}
    return replace(branches[0], parameters=sum(branch.parameters for branch in branches), **costs)


def costs(n: ArchitectureParameter, *, context: int, dtype: str) -> tuple[Cost, ...]:
    """What stands before the layers, each layer, and what stands behind them; weights cost where they are used first.

    Raises:
        InputError: as `count`.
    """
    if context < 1:
        raise InputError(f"context = {context} must be at least 1: a token sees itself")
    if dtype not in BYTES:
        raise InputError(f"dtype = {dtype!r} (known: {', '.join(BYTES)})")
    width = n.embedding.width
    place = Place(width=width, model=width, context=context, bytes=BYTES[dtype])
    before = total(
        _embedding_cost(n.embedding, len(n.layers)),
        _streams_cost(n.streams, width),
        weights(width * len(n.registers)),
        Cost(fixed=LENGTH_BYTES * len(_kept_lengths(n))),
    )
    vocab = n.embedding.rows if n.head.spare else n.embedding.vocab
    behind = total(norm_cost(n.final_norm, width), _head_cost(n.head, vocab=vocab, width=width))
    return before, *_layer_costs(n, place), behind


def _embedding_cost(part: Embedding, layers: int) -> Cost:
    inner = part.table_width
    costs = [norm_cost(part.norm, inner), weights(GAIN_WEIGHTS["shift_scale"] * part.width * part.gain)]
    if part.bands is None:
        costs.append(weights((part.rows + (part.types or 0) + (part.tasks or 0)) * inner))
    else:
        for start, end, inner in part.bands.spans(vocab=part.vocab, width=part.width):
            costs += [weights((end - start) * inner), linear(inner, part.width)]
    if isinstance(part.positions, LearnedPositions):
        costs.append(weights(part.positions.count * inner))
    if part.narrow:
        costs.append(linear(inner, part.width, part.narrow.bias))
    if part.beside:
        costs += [weights(each.count * each.width) for each in part.beside]
        costs.append(linear(inner + sum(each.width for each in part.beside), inner, bias=True))
    if part.per_layer:
        all_layers = layers * part.per_layer.width
        costs += [
            weights(part.per_layer.vocab * all_layers),
            linear(part.width, all_layers),
            norm_cost(part.per_layer.norm, part.per_layer.width),
        ]
    return total(*costs)


def _kept_lengths(n: ArchitectureParameter) -> set[object]:
    """The rotations that remember how long a row was at the first call."""
    parts = (branch.part for layer in n.layers for _, branch in layer.all_branches())
    ropes = ((getattr(part, "rope", None), getattr(part, "head_dim", None)) for part in parts)
    return {(rope, width) for rope, width in ropes if rope and isinstance(rope.scaling, SteppedScaling)}


def _head_cost(part: Head, *, vocab: int, width: int) -> Cost:
    if part.bands is None:
        before, read = Cost(), width
        if part.transform:
            read = part.transform.width
            before = total(linear(width, read, part.transform.bias), norm_cost(part.transform.norm, read))
        whole = linear(read, vocab, part.bias)
        return total(before, replace(whole, parameters=whole.parameters - read * vocab * part.tied))
    (_, first, _), *further = part.bands.spans(vocab=vocab, width=width)
    within_bands = (linear(width, rank) + linear(rank, end - start) for start, end, rank in further)
    return total(linear(width, first + len(further)), *within_bands)


def _streams_cost(part: Streams | None, width: int) -> Cost:
    if part is None:
        return Cost()
    projected = total(*(linear(width, width) for _ in range(part.count - 1)))
    fill = projected if part.fill == "project" else Cost()
    if part.merge == "mean":
        return fill + projected
    if part.gate:
        return fill + gate_cost(part.gate, part.count, width)
    return total(fill, linear(part.count * width, part.count, bias=True), weights(1))


def _layer_costs(n: ArchitectureParameter, place: Place) -> Iterator[Cost]:
    widths = dict.fromkeys(["x", "e", *(register.name for register in n.registers)], place.width)
    seen: set[str] = set()
    for layer in n.layers:
        whole = total(*_program_costs(layer, widths, place, seen))
        yield whole.without_weights() if layer.share in seen else whole
        if layer.share is not None:
            seen.add(layer.share)


def _program_costs(program: Program, widths: dict[str, int], place: Place, seen: set[str]) -> Iterator[Cost]:
    """The costs of all steps; the registers' `widths` and the names `seen` of shared weights are extended."""
    for step in program.steps:
        here = replace(place, width=step.read.width(widths))
        yield norm_cost(step.norm, here.width)
        if step.read.join == "attend":
            one = here.width // step.read.queries
            yield weights(here.width)
            yield attention_products(step.read.queries, len(step.read.registers), one, one)
        if step.connection:
            yield cost(step.connection, place)
        for branch in step.branches:
            yield _branch_cost(branch, here, widths, seen)
        _extend(widths, step, here)
        for write in step.writes:
            yield norm_cost(write.norm, widths[write.register])
            gains = [GAIN_WEIGHTS[term.gain] for term in write.terms]
            yield weights(sum(gains) * widths[write.register] + sum(term.gain == "number" for term in write.terms))


def _extend(widths: dict[str, int], step: Step, place: Place) -> None:
    """Set the widths of the registers that a step writes."""
    known = {"u": place.width, "v": place.width, **{branch.name: place.model for branch in step.branches}}
    for write in step.writes:
        widths[write.register] = (widths | known)[write.terms[0].source]


def _branch_cost(branch: Branch, place: Place, widths: dict[str, int], seen: set[str]) -> Cost:
    if isinstance(branch.part, Program):
        inner = total(*_program_costs(branch.part, {**widths, "x": place.width}, place, seen))
    else:
        inner = cost(branch.part, place)
    if branch.share in seen:
        inner = inner.without_weights()
    if branch.share is not None:
        seen.add(branch.share)
    shapes = dict(_projection_shapes(branch.part, place, widths)) if branch.adapters else {}
    adapters = [
        linear(shapes[adapter.target][0], adapter.rank) + linear(adapter.rank, shapes[adapter.target][1])
        for adapter in branch.adapters
    ]
    return total(
        norm_cost(branch.input_norm, place.width), inner, norm_cost(branch.output_norm, place.model), *adapters
    )


def _projection_shapes(
    part: object, place: Place, widths: dict[str, int], prefix: str = ""
) -> Iterator[tuple[str, tuple[int, int]]]:
    """(width read, rows) of every projection that an adapter may name."""
    if isinstance(part, Program):
        widths = {**widths, "x": place.width}
        for step in part.steps:
            here = replace(place, width=step.read.width(widths))
            for branch in step.branches:
                yield from _projection_shapes(branch.part, here, widths, f"{prefix}{branch.name}.")
            _extend(widths, step, here)
    else:
        yield from ((prefix + role, (place.width, rows)) for role, rows in projection_rows(part).items())
