"""Laguna (poolside): heads layer by layer, outputs gated by a softplus, capped sigmoid routing, a shared expert."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, OutputGate, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "full_attention", "sliding_attention"
ROTATIONS = {
    FULL: {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}
GATED = {True: "head", "per-head": "head", False: "channel", "per-element": "channel"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=100352, width=2048)
    norm = common.rms_norm(reader, 1e-6)
    depth = reader.count("num_hidden_layers", 40)
    mixers = _mixers(reader, text.context, depth, qk_norm=QueryKeyNorm(norm=norm))
    dense = common.feed_forward(reader, 8192)
    cap = reader.number("moe_router_logit_softcapping", 0.0)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 256),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 512), activation=dense.activation),
        router=Router(
            score="sigmoid",
            normalise=True,
            selection_bias=True,
            softcap=cap if cap > 0 else None,
            logits="widened",
            weights="rounded",
        ),
        scale=reader.number("moe_routed_scaling_factor", 1.0),
        shared=replace(dense, width=reader.count("shared_expert_intermediate_size", 512)),
        shared_call="first",
    )
    reader.inert("moe_apply_router_weight_on_input", False)
    mlps = reader.names("mlp_layer_types", length=depth, known=("dense", "sparse"))
    mlps = mlps or ("dense", *["sparse"] * (depth - 1))
    layers = common.sequential(mixers, [dense if mlp == "dense" else experts for mlp in mlps], norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


def _mixers(reader: ConfigReader, context: int | None, depth: int, *, qk_norm: QueryKeyNorm) -> list[Attention]:
    """Each layer's attention: of a kind, and with as many heads as are listed for it."""
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {kind: dict(rotation) for kind, rotation in ROTATIONS.items()}
    section = reader.section("rope_parameters")
    ropes = {
        kind: rotary.rope(section.section(kind), context=context, takes_fraction=True, nested=True) for kind in KINDS
    }
    heads = reader.count("num_attention_heads", 48)
    listed = reader.take("num_attention_heads_per_layer", None, kinds=(list, type(None))) or [heads] * depth
    fits = len(listed) == depth and all(type(count) is int and count > 0 for count in listed)
    reader.require(fits, "num_attention_heads_per_layer", listed, f"must list {depth} whole numbers of at least 1")
    gate = reader.take("gating", True, kinds=(bool, str), known=GATED)
    full = Attention(
        heads=heads,
        kv_heads=reader.count("num_key_value_heads", 8),
        head_dim=reader.count("head_dim", 128),
        rope=ropes[FULL],
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
        qk_norm=qk_norm,
        gate=OutputGate(activation="softplus", per=gate, wide="activation"),
    )
    window = reader.count("sliding_window", 512)
    mixers = {FULL: full, SLIDING: replace(full, rope=ropes[SLIDING], window=window)}
    kinds = reader.names("layer_types", length=depth, known=KINDS) or (FULL,) * depth
    return [replace(mixers[kind], heads=count) for kind, count in zip(kinds, listed, strict=True)]


FAMILY = Family(
    model_type="laguna",
    title="Laguna",
    read=read,
    weights=names.weights(
        names.experts(),
        names.either(names.shared_experts(f"{names.LAYER}.mlp.shared_expert"), names.shared_experts()),
        {
            "layers.{i}.attention.gate": f"{names.LAYER}.self_attn.g_proj",
            "layers.{i}.feed_forward.router.selection_bias": tuple(
                Direct(f"{names.LAYER}.mlp.{holder}.e_score_correction_bias") for holder in ("experts", "gate")
            ),
        },
    ),
    rope="none",
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 3, "sliding_window": 16, "shared_expert_intermediate_size": 32}
    | {"layer_types": [SLIDING, FULL, SLIDING]},
    draws=draws.without(draws.DENSE, "rope_parameters")
    | {
        "head_dim": (16, 8),
        "rope_parameters": (None, {FULL: draws.ROPE[2], SLIDING: {**draws.ROPE[1], "partial_rotary_factor": 0.5}}),
        "sliding_window": (16, 7, 128),
        "layer_types": ([SLIDING, FULL, SLIDING], None),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse"]),
        "num_attention_heads_per_layer": (None, [4, 8, 4]),
        "gating": (True, "per-element", "per-head"),
        "num_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 4),
        "moe_router_logit_softcapping": (0.0, 0.8),
        "moe_routed_scaling_factor": (1.0, 2.5),
        "shared_expert_intermediate_size": (32, 24),
    },
)
