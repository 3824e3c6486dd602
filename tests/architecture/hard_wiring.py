"""Hard types whose layers are wired unusually: held values, streams, nested programs, loops."""

from __future__ import annotations

from typing import Any

from pieces import VOCAB, bare_rms, branch, layer, rms, swiglu, wide_rms, write

from nexus_universal.architecture.ends import Embedding, Head, PerLayerEmbedding, Register, Streams
from nexus_universal.architecture.feed_forward import (
    FeedForward,
    MixtureOfExperts,
    PerLayerInput,
    Router,
)
from nexus_universal.architecture.mixers import (
    Attention,
    LatentAttention,
    LowRank,
    OutputGate,
    QueryKeyNorm,
)
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import ProportionalScaling, Rope
from nexus_universal.architecture.program import (
    AltUp,
    Connection,
    Program,
    Read,
    Step,
    StreamSlice,
    residual_step,
)


def longcat_flash() -> ArchitectureParameter:
    """Two attentions, two dense networks, and experts whose output waits in m to the layer's end: (x + y) + m."""
    norm, inner = rms(), rms(1e-6)
    attention = LatentAttention(
        heads=4,
        query_rank=12,
        latent_rank=10,
        nope_dim=6,
        rope_dim=4,
        value_dim=8,
        latent_norm=inner,
        rope=Rope(theta=1e7, pairing="interleaved_to_half"),
        query_scale=(24 / 12) ** 0.5,
        latent_scale=(24 / 10) ** 0.5,
    )
    experts = MixtureOfExperts(
        experts=5,
        per_token=3,
        expert=swiglu(14),
        router=Router(
            score="softmax", normalise=False, selection_bias=True, scale=6.0, logits="float32", order="unsorted"
        ),
        identity_experts=2,
        sum_order="expert",
    )
    shortcut = Step(
        norm=norm,
        branches=(branch("experts", experts), branch("feed_forward_0", swiglu(36))),
        writes=(write("x", "feed_forward_0"), write("experts", register="m")),
    )
    last = Step(
        norm=norm, branches=(branch("feed_forward_1", swiglu(36)),), writes=(write("x", "feed_forward_1", "m"),)
    )
    steps = (
        residual_step("attention_0", attention, norm=norm),
        shortcut,
        residual_step("attention_1", attention, norm=norm),
        last,
    )
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24), layers=2 * (layer(*steps),), final_norm=norm, head=Head(tied=False)
    )


def _gemma_attention(*, full: bool, share: str | None, reuse: bool, **fields: Any) -> Attention:
    kind = "full" if full else "sliding"
    return Attention(
        window=None if full else 5,
        scale=1.0,
        qk_norm=QueryKeyNorm(norm=wide_rms()),
        value_norm=None if reuse else bare_rms(),
        emit=kind if share == "emit" else None,
        reuse=kind if reuse else None,
        **fields,
    )


def gemma3n_text() -> ArchitectureParameter:
    """Four streams predicted and corrected around a nested program, LAuReL, per-layer inputs, shared keys, values."""
    width, norm = 24, wide_rms()
    streams, depth, first_shared = 4, 10, 6

    def one(index: int) -> Program:
        full = (index + 1) % 5 == 0
        attention = _gemma_attention(
            full=full,
            share="emit" if index in (3, 4) else None,
            reuse=index >= first_shared - 1,
            heads=4,
            kv_heads=2,
            head_dim=8,
            rope=Rope(theta=1e6 if full else 1e4),
        )
        feed_forward = FeedForward(
            width=28 + 2 * (index >= 5), activation="gelu_tanh", sparsity=0.95 if index < 2 else None
        )
        inner = layer(
            Step(
                norm=norm,
                branches=(
                    branch("attention", attention, output_norm=norm),
                    branch("laurel", LowRank(rank=7), output_norm=norm),
                ),
                writes=(write("v", "laurel", register="l"), write("x", "attention", "l", divisor=2**0.5)),
            ),
            residual_step("feed_forward", feed_forward, norm=norm, output_norm=norm),
        )
        altup: Connection = AltUp(streams=streams, active=0, norm=norm)
        per_layer = branch("per_layer", PerLayerInput(width=6, activation="gelu_tanh"), output_norm=norm)
        return layer(
            Step(connection=altup, branches=(branch("block", inner),), writes=(write("block"),)),
            Step(
                connection=StreamSlice(read=0, write=(1, 2, 3), read_scale=True),
                branches=(per_layer,),
                writes=(write("per_layer"),),
            ),
        )

    return ArchitectureParameter(
        embedding=Embedding(
            vocab=VOCAB,
            width=width,
            scale=width**0.5,
            scale_rounding="model",
            padding_row=0,
            per_layer=PerLayerEmbedding(vocab=89, width=6, norm=norm),
        ),
        layers=tuple(one(index) for index in range(depth)),
        final_norm=norm,
        head=Head(tied=True, softcap=30.0),
        streams=Streams(count=streams, fill="project", merge="mean", eps=1e-5),
    )


def gemma4_text() -> ArchitectureParameter:
    """Two head widths, keys and values reused by later layers, a per-layer input, and a scalar behind every layer."""
    norm, depth = wide_rms(), 6

    def one(index: int) -> Program:
        full, reuse = index % 3 == 2, index >= 3
        attention = _gemma_attention(
            full=full,
            share="emit" if index in (1, 2) else None,
            reuse=reuse,
            heads=4,
            kv_heads=2,
            head_dim=12 if full else 8,
            rope=Rope(theta=1e6, fraction=0.25, scaling=ProportionalScaling()) if full else Rope(theta=1e4),
        )
        feed_forward = FeedForward(width=52 if reuse else 26, activation="gelu_tanh")
        per_layer = branch("per_layer", PerLayerInput(width=6, activation="gelu_tanh"), output_norm=norm)
        return layer(
            residual_step("attention", attention, norm=norm, output_norm=norm),
            residual_step("feed_forward", feed_forward, norm=norm, output_norm=norm),
            Step(branches=(per_layer,), writes=(write("x", "per_layer", layer_scale=True),)),
        )

    return ArchitectureParameter(
        embedding=Embedding(
            vocab=VOCAB,
            width=24,
            scale=24**0.5,
            scale_rounding="model",
            padding_row=0,
            per_layer=PerLayerEmbedding(vocab=89, width=6, norm=norm, scale_rounding="none"),
        ),
        layers=tuple(one(index) for index in range(depth)),
        final_norm=norm,
        head=Head(tied=True, softcap=30.0),
    )


def gemma4_text_experts() -> ArchitectureParameter:
    """A dense network beside experts, each between norms of its own; the router reads the residual as it is."""
    norm = wide_rms()

    def one(index: int) -> Program:
        full = index % 3 == 2
        attention = _gemma_attention(
            full=full,
            share=None,
            reuse=False,
            heads=4,
            kv_heads=1 if full else 2,
            head_dim=12 if full else 8,
            rope=Rope(theta=1e6, fraction=0.25, scaling=ProportionalScaling()) if full else Rope(theta=1e4),
            value_is_key=full,
        )
        experts = MixtureOfExperts(
            experts=5,
            per_token=2,
            expert=FeedForward(width=14, activation="gelu_tanh"),
            expert_norm=norm,
            router=Router(score="softmax", normalise=True, input_norm=bare_rms(), input_scale=True, expert_scale=True),
        )
        dense = FeedForward(width=26, activation="gelu_tanh")
        both = Step(
            branches=(
                branch("feed_forward", dense, input_norm=norm, output_norm=norm),
                branch("experts", experts, output_norm=norm),
            ),
            writes=(write("feed_forward", "experts", register="f", norm=norm), write("x", "f", layer_scale=True)),
        )
        return layer(residual_step("attention", attention, norm=norm, output_norm=norm), both)

    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24, scale=24**0.5, scale_rounding="model", padding_row=0),
        layers=tuple(one(index) for index in range(6)),
        final_norm=norm,
        head=Head(tied=True),
    )


def hrm_text(*, depth: int = 2, slow: int = 2, fast: int = 3) -> ArchitectureParameter:
    """Two stacks in nested loops: low ← L(low + x) `fast` times, then x ← H(x + low), all that `slow` times."""
    norm = bare_rms()
    attention = Attention(heads=3, kv_heads=3, head_dim=8, rope=Rope(theta=1e4), gate=OutputGate())

    def stack(own: str, other: str) -> list[Program]:
        programs = []
        for index in range(depth):
            read, source = (Read(registers=(own, other)), "u") if index == 0 else (Read(registers=(own,)), own)
            mixing = Step(
                read=read,
                norm=norm,
                branches=(branch("attention", attention),),
                writes=(write(source, "attention", register=own),),
            )
            feeding = Step(
                read=Read(registers=(own,)),
                norm=norm,
                branches=(branch("feed_forward", swiglu(34)),),
                writes=(write(own, "feed_forward", register=own, norm=norm if index == depth - 1 else None),),
            )
            programs.append(layer(mixing, feeding, share=f"{own}_{index}"))
        return programs

    turns = slow * (fast * stack("low", "x") + stack("x", "low"))
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24, scale=50.0, scale_inputs=True),
        layers=tuple(turns),
        final_norm=None,
        head=Head(tied=False),
        registers=(Register(name="low"),),
    )
