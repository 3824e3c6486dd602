"""Mamba with a block of attention that a few layers share (Zamba, arXiv 2405.16712)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import (
    Adapter,
    Branch,
    Linear,
    Program,
    Read,
    Step,
    Term,
    Write,
    sequential_layer,
)
from nexus_universal.families.shared import names
from nexus_universal.families.shared.reader import ConfigReader

FROM_X = Read()
PLAIN, HYBRID = "state_space", "fed_state_space"
REPEATED = {r"\.shared_transf(ormer)?\.": "the block once more, at another layer that has it"}
ATTENTION = ("query", "key", "value", "output")


def block(attention: Attention, feed_forward: FeedForward, norm: Norm) -> Program:
    """Attention over [x ‖ e], then a feed-forward, neither with a residual."""
    parts = {"attention": attention, "feed_forward": feed_forward}
    return Program(steps=tuple(_step(name, part, "x", norm=norm) for name, part in parts.items()))


def _hybrid(mixer: Part, norm: Norm, shared: Program, *, name: str, adapters: tuple[Adapter, ...]) -> Program:
    """x = x + mixer(norm(x + t)), where t is a projection of what the shared block makes of [x ‖ e]."""
    branch = Branch(name="shared", part=shared, share=name, adapters=adapters)
    feeding = Step(
        read=Read(registers=("x", "e"), join="concat"),
        branches=(branch,),
        writes=(Write(terms=(Term(source="shared"),), register="t"),),
    )
    projecting = _step("linear", Linear(), "t", read=Read(registers=("t",)))
    residual = (Term(source="x"), Term(source=HYBRID))
    mixing = Step(
        read=Read(registers=("x", "t")),
        norm=norm,
        branches=(Branch(name=HYBRID, part=mixer),),  # type: ignore[arg-type]
        writes=(Write(terms=residual),),
    )
    return Program(steps=(feeding, projecting, mixing))


def layers(
    reader: ConfigReader,
    kinds: Sequence[str],
    mixer: Part,
    shared: Program,
    *,
    norm: Norm,
    blocks: int = 1,
    adapters: tuple[Adapter, ...] = (),
) -> list[Program]:
    """Hybrids use the blocks of the first few in turn, where the token table is tied, too.

    The reference's class ties nothing at all where it is not.
    """
    hybrids = [index for index, kind in enumerate(kinds) if kind == "hybrid"]
    tied = reader.take("tie_word_embeddings", True)
    owners = {index: hybrids[turn % blocks] if tied else index for turn, index in enumerate(hybrids)}
    plain = sequential_layer((PLAIN, mixer), norm=norm)
    return [
        _hybrid(mixer, norm, shared, name=f"layers.{owners[index]}", adapters=adapters) if index in owners else plain
        for index in range(len(kinds))
    ]


def _step(name: str, part: Part, register: str, *, norm: Norm | None = None, read: Read = FROM_X) -> Step:
    """register = part(norm(read))."""
    write = Write(terms=(Term(source=name),), register=register)
    return Step(read=read, norm=norm, branches=(Branch(name=name, part=part),), writes=(write,))  # type: ignore[arg-type]


def tensors(mixer: Callable[[str], names.Names], block: str, projections: Mapping[str, str]) -> names.Names:
    """The names: of the mixer in plain layers and in hybrids, and of the block, at the first layer that has it.

    `projections` are those of the block's feed-forward.
    """
    ours, theirs = "shared.layers.{i}", f"{names.LAYER}.{block}"
    fed = {key.replace(PLAIN, HYBRID): rules for key, rules in mixer(f"{names.LAYER}.mamba_decoder").items()}
    attention = {f"{ours}.attention.{role}": f"{theirs}.self_attn.{role[0]}_proj" for role in ATTENTION}
    feeding = {f"{ours}.feed_forward.{role}": f"{theirs}.feed_forward.{name}" for role, name in projections.items()}
    norms = {"attention_norm": "input_layernorm", "feed_forward_norm": "pre_ff_layernorm"}
    table: names.Names = {f"{ours}.{role}": f"{theirs}.{name}" for role, name in norms.items()}
    table |= {"layers.{i}.linear": f"{names.LAYER}.linear"} | attention | feeding | mixer(names.LAYER) | fed
    return names.ends() | {"final_norm": "model.final_layernorm"} | table
