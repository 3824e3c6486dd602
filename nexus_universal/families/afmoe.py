"""Trinity (Arcee's AFMoE): sandwich norms, gated attention that rotates in windows only, sigmoid-routed experts."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import OutputGate, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

UNREAD = {
    **dict.fromkeys(("n_group", "topk_group", "num_expert_groups", "num_limited_groups"), 1),
    "route_norm": True,
    "score_func": "sigmoid",
}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=16384, vocab=200192, width=2048)
    if reader.take("mup_enabled", False):
        embedding = replace(embedding, scale=embedding.width**0.5, scale_inputs=True)
    norm = common.rms_norm(reader, 1e-5, rounding="after_scale")
    sliding = common.attention(
        reader,
        text,
        embedding.width,
        heads=16,
        head_dim=128,
        window=reader.count("sliding_window", 1024),
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(),
    )
    full = replace(sliding, rope=None, window=None)
    depth = reader.count("num_hidden_layers", 32)
    kinds = common.layer_types(reader, depth, full_every=4, pattern_key="global_attn_every_n_layers")
    dense = common.feed_forward(reader, 6144)
    width = reader.count("moe_intermediate_size", 1408)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 64),
        per_token=reader.count("num_experts_per_tok", 6),
        expert=FeedForward(width=width, activation=dense.activation),
        router=Router(
            score="sigmoid",
            normalise=True,
            selection_bias=True,
            sum_epsilon=1e-20,
            scale=reader.number("route_scale", 1.0),
            logits="widened",
        ),
        shared=replace(dense, width=width * reader.count("num_shared_experts", 2)),
        shared_call="second",
    )
    first = reader.take("num_dense_layers", 1)
    layers = common.sequential(
        common.windowed(kinds, full, sliding=sliding),
        [dense if index < first else experts for index in range(depth)],
        norm=norm,
        output_norm=norm,
    )
    for key, value in UNREAD.items():
        reader.inert(key, value)
    return common.decoder(reader, replace(text, zero_routers=True), embedding, layers, norm)


FAMILY = Family(
    model_type="afmoe",
    title="Trinity (AFMoE)",
    read=read,
    weights=names.weights(
        names.experts(router=f"{names.LAYER}.mlp.router.gate"),
        names.shared_experts(),
        {
            "layers.{i}.attention.gate": f"{names.LAYER}.self_attn.gate_proj",
            "layers.{i}.attention_output_norm": f"{names.LAYER}.post_attention_layernorm",
            "layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_mlp_layernorm",
            "layers.{i}.feed_forward_output_norm": f"{names.LAYER}.post_mlp_layernorm",
            "layers.{i}.feed_forward.router.selection_bias": Direct(f"{names.LAYER}.mlp.expert_bias"),
        },
        narrow=("*.selection_bias",),
        wide_in_half=("*norm.weight", "*.selection_bias"),
    ),
    irrelevant={
        "load_balance_coeff": TRAINING,
        "use_grouped_mm": "which kernel training multiplied with",
    },
    tiny=draws.TINY | draws.TINY_EXPERTS | {"num_hidden_layers": 4, "sliding_window": 16, "num_shared_experts": 1},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention"] * 2),
        "global_attn_every_n_layers": (4, 2),
        "mup_enabled": (False, True),
        "num_dense_layers": (1, 2, 0),
        "num_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 4),
        "num_shared_experts": (1, 2),
        "route_scale": (1.0, 2.5),
    },
)
