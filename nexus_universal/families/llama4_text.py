"""Llama 4 (Meta): chunks where attention rotates, queries that grow where it does not, experts' inputs weighed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import QueryTemperature
from nexus_universal.checkpoint.rules import Transposed
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

CHUNKED, FULL = KINDS = "chunked_attention", "full_attention"
FEED_FORWARD = f"{names.LAYER}.feed_forward"
FORM: dict[str, Any] = {"pairing": "interleaved", "table": "float32", "product": "complex64", "over": "positions"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=202048, width=5120, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-5)
    depth = reader.count("num_hidden_layers", 48)
    rotated = common.attention(
        reader,
        text,
        embedding.width,
        heads=40,
        kv_heads=8,
        head_dim=128,
        rope=rotary.rope(reader.section("rope_parameters"), context=text.context, **FORM),
        qk_norm=QueryKeyNorm(norm=replace(norm, scale="none"), when="after_rope")
        if reader.take("use_qk_norm", True)
        else None,
    )
    expert = common.feed_forward(reader, 8192)
    dense = replace(expert, width=reader.count("intermediate_size_mlp", 16384))
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 16),
        per_token=reader.count("num_experts_per_tok", 1),
        expert=expert,
        router=Router(score="sigmoid_masked_chosen", normalise=False, weights="rounded"),
        shared=expert,
        weighs="inputs",
    )
    step = reader.count("interleave_moe_layer_step", 1)
    listed = reader.take("moe_layers", None, kinds=(list, type(None)))
    sparse = range(step - 1, depth, step) if listed is None else reader.indices("moe_layers", length=depth)
    feed_forwards = [experts if index in sparse else dense for index in range(depth)]
    layers = common.sequential(_mixers(reader, rotated, depth), feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


def _mixers(reader: ConfigReader, rotated: Attention, depth: int) -> list[Attention]:
    """Each layer's attention: whether it rotates, and whether it keeps to chunks."""
    growth = QueryTemperature(
        growth=reader.number("attn_scale", 0.1), span=reader.count("floor_scale", 8192), form="log_next"
    )
    tuned = reader.take("attn_temperature_tuning", True)
    plain = replace(rotated, rope=None, qk_norm=None, temperature=growth if tuned else None)
    every = reader.count("no_rope_layer_interval", 4)
    derived = tuple(int((index + 1) % every != 0) for index in range(depth))
    if not reader.values.get("no_rope_layers"):
        reader.values["no_rope_layers"] = None
    turns = reader.names("no_rope_layers", length=depth, known=(0, 1)) or derived
    kinds = reader.names("layer_types", length=depth, known=KINDS) or [KINDS[not turn] for turn in turns]
    chunk = reader.count("attention_chunk_size", 8192)
    return [
        replace(rotated if turn else plain, window=chunk, chunked=True)
        if kind == CHUNKED
        else rotated
        if turn
        else plain
        for turn, kind in zip(turns, kinds, strict=True)
    ]


FAMILY = Family(
    model_type="llama4_text",
    title="Llama 4",
    read=read,
    weights=names.weights(
        names.gated(theirs=FEED_FORWARD),
        names.shared_experts(f"{FEED_FORWARD}.shared_expert"),
        {
            "layers.{i}.feed_forward.router": f"{FEED_FORWARD}.router",
            "layers.{i}.feed_forward.experts.gate_up": Transposed(f"{FEED_FORWARD}.experts.gate_up_proj"),
            "layers.{i}.feed_forward.experts.down": Transposed(f"{FEED_FORWARD}.experts.down_proj"),
        },
    ),
    rope_theta=500000.0,
    tiny=draws.TINY
    | {"num_hidden_layers": 4, "intermediate_size": 24, "intermediate_size_mlp": 40, "head_dim": 16}
    | {"num_local_experts": 4, "attention_chunk_size": 16, "floor_scale": 8},
    draws=draws.DENSE
    | {
        "head_dim": (16, 8),
        "use_qk_norm": (True, False),
        "num_local_experts": (4, 3),
        "num_experts_per_tok": (1, 2),
        "interleave_moe_layer_step": (1, 2),
        "moe_layers": (None, [0, 3]),
        "no_rope_layers": (None, [0, 1, 1, 0]),
        "no_rope_layer_interval": (4, 2),
        "layer_types": (None, [FULL, CHUNKED] * 2),
        "attention_chunk_size": (16, 7, 128),
        "attn_temperature_tuning": (True, False),
        "floor_scale": (8, 100),
        "attn_scale": (0.1, 0.4),
    },
)
