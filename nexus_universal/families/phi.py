"""Phi-1, Phi-1.5 and Phi-2 (arXiv 2306.11644, 2309.05463): parallel blocks with one norm, half of each head rotated."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = dense.Size(context=2048, vocab=51200, width=2048, inner=8192, depth=24, heads=32)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), bias=True, rounding="native")
    reader.inert("head_dim", reader.count("hidden_size", SIZE.width) // reader.count("num_attention_heads", SIZE.heads))
    return dense.decoder(
        reader,
        SIZE,
        norm,
        rope={"takes_fraction": True},
        feed_forward={"gated": False, "act": "gelu_new", "biases": ("up", "down")},
        biases=common.ALL_BIASES,
        qk_norm=QueryKeyNorm(norm=norm, order="heads") if reader.take("qk_layernorm", False) else None,
        parallel=("attention", "feed_forward", "x"),
        head={"bias": True},
    )


FAMILY = Family(
    model_type="phi",
    title="Phi-1, Phi-1.5, Phi-2",
    read=read,
    weights=names.weights(
        {
            "final_norm": "model.final_layernorm",
            "layers.{i}.attention.query_norm": f"{names.LAYER}.self_attn.q_layernorm",
            "layers.{i}.attention.key_norm": f"{names.LAYER}.self_attn.k_layernorm",
            "layers.{i}.attention.output": f"{names.LAYER}.self_attn.dense",
            "layers.{i}.feed_forward.up": f"{names.LAYER}.mlp.fc1",
            "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.fc2",
        }
    ),
    irrelevant=dict.fromkeys(("resid_pdrop", "embd_pdrop"), TRAINING),
    partial_rotary_factor=0.5,
    tiny=draws.TINY | {"hidden_size": 64},
    draws=draws.without(draws.DENSE, "rms_norm_eps", "attention_bias")
    | {
        "num_key_value_heads": (4, 2, 1, None),
        "hidden_act": ("gelu_new", "gelu", "relu"),
        "rope_parameters": tuple(rope for rope in draws.ROPE if rope["rope_type"] != "proportional"),
        "layer_norm_eps": (1e-5, 1e-3),
        "partial_rotary_factor": (0.5, 0.25, 1.0),
        "qk_layernorm": (False, True),
    },
)
