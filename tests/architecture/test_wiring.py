"""Registers, widths, shares, states handed on, streams: wiring that cannot be meant is refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hard_types import WORKS
from pieces import write
from small import NORM, attention, feed_forward, layer, refused, small, step, stepped

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.ends import Embedding, PerLayerEmbedding, Register, Streams
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.feed_forward import PerLayerInput
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import (
    Adapter,
    AltUp,
    Branch,
    HyperConnection,
    Program,
    Read,
    Step,
    StreamSlice,
    Write,
)

HYPER = HyperConnection(streams=4, iterations=3, eps=1e-6, norm_eps=1e-6)
FOUR = Streams(count=4, fill="copy", merge="weigh", eps=1e-6, norm_eps=1e-6)

CASES: dict[str, tuple[ArchitectureParameter, tuple[str, ...]]] = {
    "read before written": (
        stepped(step(read=Read(registers=("m",)))),
        ("layers.0.attention_step.read.registers = 'm' must be written before it is read (so far: e, x)",),
    ),
    "read of nothing": (stepped(step(read=Read(registers=()))), ("registers = () must name at least one",)),
    "concatenation of one": (stepped(step(read=Read(join="concat"))), ("join = 'concat' 'concat' needs two",)),
    "unequal read": (
        stepped(
            step(read=Read(registers=("x", "e"), join="concat"), writes=(write("attention"), write("u", register="m"))),
            step(name="other", read=Read(registers=("x", "m"))),
        ),
        ("layers.0.other_step.read.registers = ('x', 'm') must be equally wide to be summed (x has 24, m has 48)",),
    ),
    "unknown term": (
        stepped(step(writes=(write("x", "attention", "m"),))),
        ("layers.0.attention_step.writes.0.terms = 'm' must name one of attention, e, u, v, x",),
    ),
    "dropped branch": (stepped(step(writes=(write("x"),))), ("drop the branch 'attention': a term must name it",)),
    "no writes": (stepped(step(writes=())), ("writes = ()",)),
    "nothing at all": (stepped(step(branches=(), writes=())), ("writes = () must not be empty",)),
    "empty write": (stepped(step(writes=(write("attention"), Write(terms=())))), ("terms = () must not be empty",)),
    "write to e": (
        stepped(step(writes=(write("attention", register="e"),))),
        ("register = 'e' must be an identifier",),
    ),
    "division by zero": (stepped(step(writes=(write("attention", divisor=0.0),))), ("divisor = 0.0 must not be zero",)),
    "unequal sum": (
        stepped(step(read=Read(registers=("x", "e"), join="concat"), writes=(write("u", "attention"),))),
        ("writes.0.terms = ('u', 'attention') must be equally wide (u has 48, attention has 24)",),
    ),
    "wide residual": (
        stepped(
            step(read=Read(registers=("x", "e"), join="concat"), writes=(write("attention", register="m"), write("u")))
        ),
        ("layers = 48 leave an x of this width: it must be embedding.width = 24",),
    ),
    "branch name": (stepped(step(name="u", writes=(write("u"),))), ("name = 'u' must be an identifier other than",)),
    "branch as register": (
        stepped(step(name="x", writes=(write("x"),))),
        ("branches = 'x' names a branch, but is a register",),
    ),
    "branch twice": (stepped(step(), step()), ("steps", "name a branch twice: attention")),
    "no steps": (stepped(), ("steps = () must not be empty",)),
    "adapters": (
        stepped(
            Step(
                branches=(Branch(name="a", part=attention(), adapters=(Adapter(target="query", rank=2),)),),
                writes=(write("a"),),
            )
        ),
        ("adapters", "need share"),
    ),
    "adapter of nothing": (
        stepped(
            Step(
                branches=(Branch(name="a", part=attention(), share="s", adapters=(Adapter(target="quary", rank=2),)),),
                writes=(write("a"),),
            )
        ),
        ("adapters", "name 'quary' (known: query, key, value, relative, gate, sink)"),
    ),
    "register twice": (
        small(registers=(Register(name="m"), Register(name="m"))),
        ("registers = ('m', 'm') must have different names",),
    ),
    "register written first": (
        stepped(
            step(writes=(write("attention", register="m"),)),
            step(name="other", read=Read(registers=("m",)), writes=(write("x", "other"),)),
            registers=(Register(name="m"),),
        ),
        ("registers = 'm' is written before it is read",),
    ),
    "chain of nothing": (
        stepped(step(ChainedExperts(experts=3, expert=feed_forward(width=12), width=8, norm=NORM, chained=True))),
        ("layers.0.attention.chained = True must be False in the first layer",),
    ),
    "scaled read beside a connection": (
        stepped(step(connection=HYPER, read=Read(scale=2.0), writes=(write("attention"),)), streams=FOUR),
        ("read.scale = 2.0 must be None where a connection reads the streams",),
    ),
    "register x": (
        small(registers=(Register(name="x"),)),
        ("registers.0.name = 'x' must be an identifier other than",),
    ),
    "unequal shares": (
        small(
            dataclasses.replace(layer(), share="s"),
            dataclasses.replace(layer(attention(heads=2)), share="s"),
        ),
        ("layers.1.share = 's' names the weights of a different part",),
    ),
    "hidden streams": (
        small(streams=FOUR),
        ("layers.0.attention_step.connection = None must not be None: x is 4 streams",),
    ),
    "two hidden streams": (
        stepped(
            step(read=Read(registers=("e",)), writes=(write("attention"),)), streams=dataclasses.replace(FOUR, count=2)
        ),
        ("layers.0.attention_step.connection = None must not be None: x is 2 streams",),
    ),
    "no streams": (
        stepped(step(connection=HYPER, writes=(write("attention"),))),
        ("layers.0.attention_step.connection = HyperConnection(", "must be None: x is a single stream"),
    ),
    "other streams": (
        stepped(step(connection=dataclasses.replace(HYPER, streams=3), writes=(write("attention"),)), streams=FOUR),
        ("connection.streams = 3 must equal streams.count = 4",),
    ),
    "stream beyond": (
        stepped(step(connection=StreamSlice(read=0, write=(1, 4)), writes=(write("attention"),)), streams=FOUR),
        ("connection = (0, (1, 4)) must name streams below streams.count = 4",),
    ),
    "stream before the first": (
        stepped(step(connection=StreamSlice(read=-1, write=(1,)), writes=(write("attention"),)), streams=FOUR),
        ("connection.read = -1 must not be negative",),
    ),
    "write before the first": (
        stepped(step(connection=StreamSlice(read=0, write=(-1,)), writes=(write("attention"),)), streams=FOUR),
        ("connection.write = (-1,) must name streams, each once",),
    ),
    "stream twice": (
        stepped(step(connection=StreamSlice(read=0, write=(1, 1)), writes=(write("attention"),)), streams=FOUR),
        ("write = (1, 1) must name streams, each once",),
    ),
    "active stream": (
        stepped(step(connection=AltUp(streams=4, active=4, norm=NORM), writes=(write("attention"),)), streams=FOUR),
        ("active = 4 must lie in [0, 4)",),
    ),
    "residual beside a connection": (
        stepped(step(connection=HYPER), streams=FOUR),
        ("writes", "must be one, to x and without x among its terms"),
    ),
    "read beside a connection": (
        stepped(step(connection=HYPER, read=Read(registers=("e",)), writes=(write("attention"),)), streams=FOUR),
        ("read = Read(", "must be x where a connection reads the streams"),
    ),
    "one stream": (small(streams=dataclasses.replace(FOUR, count=1)), ("streams.count = 1 must be at least 2",)),
    "weighed without norm": (
        small(streams=dataclasses.replace(FOUR, norm_eps=None)),
        ("streams.norm_eps = None must be given for merge = 'weigh'",),
    ),
    "no per-layer table": (
        stepped(step(PerLayerInput(width=4, activation="silu"))),
        ("layers.0.attention.width = 4 needs embedding.per_layer",),
    ),
    "other per-layer table": (
        stepped(
            step(PerLayerInput(width=4, activation="silu")),
            embedding=Embedding(vocab=97, width=24, per_layer=PerLayerEmbedding(vocab=97, width=5, norm=NORM)),
        ),
        ("layers.0.attention.width = 4 must equal embedding.per_layer.width = 5",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_refused_by_name(case: str) -> None:
    n, pieces = CASES[case]
    refused(n, *pieces)


def test_a_nested_program_is_checked_as_well() -> None:
    def nested(inner: Step, **fields: Any) -> ArchitectureParameter:
        return stepped(step(Program(steps=(inner,)), name="block", **fields))

    nested(step()).validate()
    refused(nested(step(read=Read(registers=("m",)))), "layers.0.block.attention_step.read.registers = 'm'")
    refused(
        nested(
            step(writes=(write("attention", register="t"),)),
            read=Read(registers=("x", "e"), join="concat"),
            writes=(write("block"),),
        ),
        "layers.0.block = 48 is the width of x at its end, and must be 24",
    )
    refused(
        nested(step(connection=HYPER, writes=(write("attention"),))),
        "layers.0.block.attention_step.connection = HyperConnection(",
        "must be None: x is a single stream",
    )
    wide = nested(
        step(writes=(write("attention"),)), read=Read(registers=("x", "e"), join="concat"), writes=(write("block"),)
    )
    wide.validate()


def test_streams_may_be_written_back_to_the_one_that_was_read() -> None:
    connection = StreamSlice(read=0, write=(0, 3))
    stepped(step(connection=connection, writes=(write("attention"),)), streams=FOUR).validate()


def test_writes_see_what_the_writes_before_them_wrote() -> None:
    stepped(step(writes=(write("attention", register="m"), write("x", "m")))).validate()
    refused(stepped(step(writes=(write("x", "m"), write("attention", register="m")))), "writes.0.terms = 'm'")


def test_registers_live_on_from_layer_to_layer_in_their_order() -> None:
    writes = Program(steps=(step(writes=(write("attention", register="m"),)),))
    reads = Program(steps=(step(read=Read(registers=("m",))),))
    small(writes, reads).validate()
    refused(small(reads, writes), "layers.0.attention_step.read.registers = 'm'")
    small(reads, registers=(Register(name="m"),)).validate()


Change = Callable[[ArchitectureParameter], ArchitectureParameter]
BROKEN: dict[str, tuple[str, Any, str]] = {
    "falcon_h1": ("layers.1.mamba.input_scales", (1.0,), "must hold five numbers"),
    "longcat_flash": ("layers.*.experts.router.sum_epsilon", 1e-20, "needs normalise = True"),
    "zamba2": ("layers.1.shared.feed_forward.width", 40, "names the weights of a different part"),
    "gemma3n_text": ("layers.*.per_layer.width", 7, "must equal embedding.per_layer.width = 6"),
    "gemma4_text": ("layers.4.attention.window", 6, "as where 'sliding' is emitted"),
    "gemma4_text_experts": ("layers.*.experts.router.input_norm", None, "needs input_norm"),
    "deepseek_v32": ("layers.*.attention.query_rank", None, "come from the query latent"),
    "deepseek_v4": ("layers.2.attention.rate", None, "work on compressed entries"),
    "kimi_linear": ("layers.0.delta.decay", "head", "must be None where"),
    "minimax": ("layers.0.lightning.packing", (Packed(roles=("query", "beta")),), "names 'beta'"),
    "jetmoe": ("layers.0.attention.router.normalise", True, "sums to one already"),
    "hrm_text": ("registers", (), "must be written before it is read"),
    "nemotron_h": ("layers.1.experts.latent", None, ""),
}


@pytest.mark.parametrize("name", WORKS)
def test_a_hard_type_cannot_be_bent_into_nonsense(name: str) -> None:
    path, value, message = BROKEN[name]
    if not message:
        assert WORKS[name]().replace(path, value) != WORKS[name]()
        return
    with pytest.raises(InvalidArchitecture) as error:
        WORKS[name]().replace(path, value)
    assert message in str(error.value)
