"""Phi-3.5-MoE (arXiv 2404.14219): LayerNorms, two experts chosen one after the other by a sparse mixer."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LongRopeScaling, Norm, Rope
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

PHI_3_5 = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 16,
    "short_factor": draws.PER_PAIR,
    "long_factor": draws.PER_PAIR,
    "short_mscale": 1.2,
    "long_mscale": 1.4,
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=32064, width=4096, bos=1, eos=2)
    norm = Norm(kind="layer", eps=reader.take("rms_norm_eps", 1e-5), bias=True, rounding="native")
    rope = _rope(reader, text.context)
    if isinstance(rope.scaling, LongRopeScaling):
        text = replace(text, reread_beyond=rope.scaling.original_context)
    window = reader.count("sliding_window", optional=True)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, rope=rope, window=window)
    reader.inert("num_experts_per_tok", 2)
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 16),
        per_token=2,
        expert=common.feed_forward(reader, 6400),
        router=Router(
            score="sparse_mixer",
            normalise=False,
            tolerance=2 * reader.number("router_jitter_noise", 0.01),
            weights="model",
        ),
    )
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 32), experts, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, bias=reader.take("lm_head_bias", False))


def _rope(reader: ConfigReader, context: int | None) -> Rope:
    """Frequencies stay those of short texts: the reference asks for them without a length (modeling_phimoe.py)."""
    section = reader.section("rope_parameters")
    rope = rotary.rope(section, context=context, kinds={"default": "default", "longrope": "longrope"})
    if not isinstance(rope.scaling, LongRopeScaling):
        return rope
    scaling = replace(
        rope.scaling,
        factor=1.0,
        long_factors=rope.scaling.short_factors,
        attention_factor=section.number("short_mscale"),
        long_attention_factor=section.number("long_mscale"),
    )
    return replace(rope, scaling=scaling)


FAMILY = Family(
    model_type="phimoe",
    title="Phi-3.5-MoE",
    read=read,
    weights=names.weights(
        names.experts(
            "model.layers.{i}.block_sparse_moe.experts.{e}",
            gate="w1",
            up="w3",
            down="w2",
            router=f"{names.LAYER}.mlp.router",
            published_router="model.layers.{i}.block_sparse_moe.gate",
        )
    ),
    irrelevant={"input_jitter_noise": TRAINING},
    rope_theta=1000000.0,
    tiny=draws.TINY | {"intermediate_size": 40, "num_local_experts": 6, "router_jitter_noise": 0.2},
    draws=draws.DENSE
    | {
        "rope_parameters": (*draws.ROPE[:2], PHI_3_5),
        "num_local_experts": (6, 3),
        "router_jitter_noise": (0.2, 0.01, 0.4),
        "sliding_window": (None, 7, 24),
        "lm_head_bias": (False, True),
    },
)
