"""LFM3: short convolutions, gated attention in windows and over everything, norms on both sides of each sublayer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import OutputGate, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.families.shared import common, draws, lfm, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

WIDE: dict[str, Any] = {"table": "float32", "product": "float32"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    ends: dict[str, Any] = {
        "context": 128000,
        "vocab": 128000,
        "width": 2048,
        "bos": 124894,
        "eos": 124900,
        "pad": 124893,
    }
    text, embedding = common.ends(reader, **ends)
    norm = Norm(kind="rms", eps=reader.take("norm_eps", 1e-5))
    ropes = reader.section("rope_parameters")
    full, local = (
        rotary.rope(ropes.section(kind), context=text.context, nested=True, **WIDE)
        for kind in ("full_attention", "sliding_attention")
    )
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=16,
        kv_heads=4,
        head_dim=128,
        rope=full,
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(per="head") if reader.take("use_attention_gate", True) else None,
    )
    windowed = replace(attention, rope=local, window=reader.count("sliding_window", 256))
    mixers = {
        "conv": ("short_convolution", lfm.convolution(reader, 7)),
        "full_attention": ("attention", attention),
        "sliding_attention": ("attention", windowed),
    }
    feed_forward = ("feed_forward", FeedForward(width=reader.count("intermediate_size", 7680), activation="silu"))
    behind = norm if reader.take("use_sandwich_norm", True) else None
    layers = {
        kind: sequential_layer(mixer, feed_forward, norm=norm, output_norm=behind) for kind, mixer in mixers.items()
    }
    depth = reader.count("num_hidden_layers", 24)
    kinds = reader.names("layer_types", length=depth, known=tuple(mixers)) or [
        "full_attention" if index % 4 == 2 else "sliding_attention" if index and index % 4 == 0 else "conv"
        for index in range(depth)
    ]
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm, tied=True)


FAMILY = Family(
    model_type="lfm3",
    title="LFM3",
    read=read,
    weights=names.weights(
        lfm.tensors(),
        {
            "layers.{i}.attention.gate": (f"{names.LAYER}.self_attn.gate_proj", f"{names.LAYER}.self_attn.g_proj"),
            "layers.{i}.attention_output_norm": f"{names.LAYER}.post_operator_norm",
            "layers.{i}.short_convolution_output_norm": f"{names.LAYER}.post_operator_norm",
            "layers.{i}.feed_forward_output_norm": f"{names.LAYER}.post_ffn_norm",
        },
    ),
    aliases={"rms_norm_eps": "norm_eps"},
    rope="by_layer_type",
    rope_theta={"full_attention": 1000000.0, "sliding_attention": 1000000.0},
    rope_default={
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5},
    },
    tiny=draws.TINY
    | {"num_hidden_layers": 3, "head_dim": 16, "sliding_window": 16, "pad_token_id": 0}
    | {"layer_types": ["conv", "full_attention", "sliding_attention"]},
    draws=draws.without(lfm.DRAWS, "rope_parameters")
    | {
        "head_dim": (16, 8),
        "attention_bias": (False, True),
        "sliding_window": (16, 7, 128),
        "layer_types": (
            ["conv", "full_attention", "sliding_attention"],
            ["sliding_attention", "full_attention", "conv"],
            None,
        ),
        "use_sandwich_norm": (True, False),
        "use_attention_gate": (True, False),
        "rope_parameters": (
            None,
            {
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
            },
        ),
    },
)
