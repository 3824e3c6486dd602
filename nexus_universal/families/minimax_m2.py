"""MiniMax-M2 (MiniMax): Mixtral's block, norms over all heads at once, half a head rotated, sigmoid-routed experts."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

UNREAD = {
    "layernorm_full_attention_beta": 1.0,
    "layernorm_linear_attention_beta": 1.0,
    "layernorm_mlp_beta": 1.0,
    "qk_norm_type": "per_layer",
    "scoring_func": "sigmoid",
    "shared_intermediate_size": 0,
    "sliding_window": None,
    "use_qk_norm": True,
    "use_routing_bias": True,
}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=196608, vocab=200064, width=3072, bos=200034, eos=200020)
    norm = common.rms_norm(reader, 1e-6)
    head_dim = reader.count("head_dim", 128)
    section = reader.section("rope_parameters")
    rotated = reader.count("rotary_dim", optional=True)
    if rotated is not None:
        section.values.setdefault("partial_rotary_factor", rotated / head_dim)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=48,
        kv_heads=8,
        head_dim=128,
        rope=rotary.rope(section, context=text.context, takes_fraction=True),
        biases=(),
        qk_norm=QueryKeyNorm(norm=norm, over="width"),
    )
    depth = reader.count("num_hidden_layers", 62)
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 256),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=common.feed_forward(reader, 1536),
        router=Router(score="sigmoid", normalise=True, selection_bias=True, logits="widened", order="unsorted"),
    )
    layers = common.sequential([attention] * depth, experts, norm=norm)
    reader.inert("attn_type_list", [1] * depth)
    for key, value in UNREAD.items():
        reader.inert(key, value)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="minimax_m2",
    title="MiniMax-M2",
    read=read,
    weights=names.weights(
        names.experts(
            "model.layers.{i}.block_sparse_moe.experts.{e}",
            gate="w1",
            up="w3",
            down="w2",
            published_router="model.layers.{i}.block_sparse_moe.gate",
        ),
        {
            "layers.{i}.feed_forward.router.selection_bias": tuple(
                Direct(f"{names.LAYER}.{block}.e_score_correction_bias") for block in ("block_sparse_moe", "mlp")
            )
        },
        passed_over=names.MULTI_TOKEN_PREDICTION,
        narrow=("*.selection_bias",),
    ),
    aliases={"num_experts": "num_local_experts"},
    irrelevant={
        **dict.fromkeys(("use_mtp", "num_mtp_modules", "mtp_transformer_layers"), "multi-token prediction"),
        **dict.fromkeys(
            ("shared_moe_mode", "mlp_intermediate_size"), "speaks of a shared expert, of which there is none"
        ),
    },
    rope_theta=5000000.0,
    tiny=draws.TINY | {"intermediate_size": 40, "head_dim": 12, "num_local_experts": 6, "num_experts_per_tok": 2},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (12, 16),
        "rotary_dim": (None, 8, 4),
        "num_local_experts": (6, 3),
        "num_experts_per_tok": (2, 1, 3),
    },
)
