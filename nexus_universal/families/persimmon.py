"""Persimmon 8B (Adept): LayerNorms, one also on each query and key; half of each head rotated, squared ReLU, biases."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=16384, vocab=262144, width=4096, inner=16384, depth=36, heads=64)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), bias=True, rounding="native")
    heads = reader.count("num_attention_heads", SIZE.heads)
    reader.inert("num_key_value_heads", None, heads)
    reader.inert("head_dim", None, reader.count("hidden_size", SIZE.width) // heads)
    return dense.decoder(
        reader,
        SIZE,
        norm,
        rope={"takes_fraction": True},
        feed_forward={"gated": False, "act": "relu2", "biases": ("up", "down")},
        biases=common.ALL_BIASES,
        packing=(Packed(roles=("query", "key", "value"), groups=heads),),
        qk_norm=QueryKeyNorm(norm=norm) if reader.take("qk_layernorm", True) else None,
    )


FAMILY = Family(
    model_type="persimmon",
    title="Persimmon 8B",
    read=read,
    weights=names.weights(
        {
            "final_norm": "model.final_layernorm",
            "layers.{i}.attention.query_key_value": f"{names.LAYER}.self_attn.query_key_value",
            "layers.{i}.attention.query_norm": f"{names.LAYER}.self_attn.q_layernorm",
            "layers.{i}.attention.key_norm": f"{names.LAYER}.self_attn.k_layernorm",
            "layers.{i}.attention.output": f"{names.LAYER}.self_attn.dense",
            "layers.{i}.feed_forward.up": f"{names.LAYER}.mlp.dense_h_to_4h",
            "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.dense_4h_to_h",
        }
    ),
    partial_rotary_factor=0.5,
    tiny=draws.without(draws.TINY, "num_key_value_heads") | {"hidden_size": 64},
    draws=draws.without(draws.DENSE, "num_key_value_heads", "rms_norm_eps", "attention_bias")
    | {
        "hidden_act": ("relu2", "silu"),
        "rope_parameters": tuple(rope for rope in draws.ROPE if rope["rope_type"] != "proportional"),
        "layer_norm_eps": (1e-5, 1e-3),
        "partial_rotary_factor": (0.5, 0.25, 1.0),
        "qk_layernorm": (True, False),
    },
)
