"""Kolibri 1 (Aleph Alpha): sandwich norms, rotation in windows only, experts chosen by biased logits."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=262144, vocab=128000, width=2560)
    norm = common.rms_norm(reader, 1e-6)
    window = reader.count("sliding_window", 513, optional=True)
    sliding = common.attention(
        reader,
        text,
        embedding.width,
        heads=48,
        kv_heads=4,
        head_dim=128,
        biases=(),
        window=window,
        qk_norm=QueryKeyNorm(norm=norm, order="heads"),
    )
    depth = reader.count("num_hidden_layers", 50)
    listed = reader.names("layer_types", length=depth, known=("full_attention", "sliding_attention"))
    kinds = listed or tuple("sliding_attention" if (i + 1) % 5 else "full_attention" for i in range(depth))
    reader.require(bool(window) or "sliding_attention" not in kinds, "sliding_window", window, "layer_types needs it")
    full = replace(sliding, rope=None, window=None) if window else sliding
    expert = FeedForward(width=reader.count("moe_intermediate_size", 512), activation=common.activation(reader))
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 384),
        per_token=reader.count("num_experts_per_tok", 6),
        expert=expert,
        router=Router(
            score="sigmoid_chosen",
            normalise=reader.take("norm_topk_prob", False),
            selection_bias=True,
            logits="float32",
        ),
        shared=replace(expert, width=reader.count("shared_expert_intermediate_size", 512)),
    )
    mixers = common.windowed(kinds, full, sliding=sliding)
    layers = common.sequential(mixers, experts, norm=norm, output_norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="kolibri1",
    title="Kolibri 1",
    read=read,
    weights=names.weights(
        names.experts(),
        names.shared_experts(),
        {
            "layers.{i}.attention_output_norm": tuple(
                f"{names.LAYER}.{name}" for name in ("post_attn_norm", "post_self_attn_layernorm")
            ),
            "layers.{i}.feed_forward_output_norm": tuple(
                f"{names.LAYER}.{name}" for name in ("post_ffn_norm", "post_mlp_layernorm")
            ),
            "layers.{i}.feed_forward.router.selection_bias": tuple(
                Direct(f"{names.LAYER}.{name}")
                for name in ("moe.router.expert_bias", "mlp.gate.e_score_correction_bias")
            ),
        },
    ),
    aliases={"num_local_experts": "num_experts"},
    tiny=draws.without(draws.TINY, "intermediate_size")
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 3, "sliding_window": 16, "shared_expert_intermediate_size": 32}
    | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": (["sliding_attention", "full_attention", "sliding_attention"], None, ["full_attention"] * 3),
        "num_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 4),
        "norm_topk_prob": (False, True),
        "shared_expert_intermediate_size": (32, 24),
    },
)
