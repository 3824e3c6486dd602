"""Gemma 3, text (arXiv 2503.19786): sandwich norms of the (1 + w) kind, five windowed layers to one full."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", 2304)
    text, embedding = common.ends(
        reader,
        context=131072,
        vocab=262208,
        width=2304,
        bos=2,
        eos=1,
        pad=0,
        scale=width**0.5,
        scale_rounding="model",
    )
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    reader.inert("attn_logit_softcapping", None)
    reader.inert("use_bidirectional_attention", False, None)
    ropes = reader.section("rope_parameters")
    full, local = (
        rotary.rope(ropes.section(kind), context=text.context, nested=True)
        for kind in ("full_attention", "sliding_attention")
    )
    attention = common.attention(
        reader,
        text,
        width,
        heads=8,
        kv_heads=4,
        head_dim=256,
        rope=full,
        scale=reader.count("query_pre_attn_scalar", 256) ** -0.5,
        qk_norm=QueryKeyNorm(norm=norm),
    )
    windowed = replace(attention, rope=local, window=reader.count("sliding_window", 4096))
    kinds = common.layer_types(reader, reader.count("num_hidden_layers", 26), full_every=6)
    mixers = [windowed if kind == "sliding_attention" else attention for kind in kinds]
    feed_forward = common.feed_forward(reader, 9216, key="hidden_activation", act="gelu_pytorch_tanh")
    layers = common.sequential(mixers, feed_forward, norm=norm, output_norm=norm)
    softcap = reader.number("final_logit_softcapping", None)
    return common.decoder(reader, text, embedding, layers, norm, tied=True, softcap=softcap)


FAMILY = Family(
    model_type="gemma3_text",
    title="Gemma 3 (text)",
    read=read,
    weights=names.weights(names.sandwich_norms()),
    irrelevant={
        "cache_implementation": "a default of generation",
        "hidden_act": "hidden_activation is what is read",
        "_sliding_window_pattern": "a trace of how layer_types was derived",
    },
    rope="by_layer_type",
    rope_theta={"full_attention": 1000000.0, "sliding_attention": 10000.0},
    tiny=draws.TINY
    | {"num_hidden_layers": 6, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "pad_token_id": 0},
    draws=draws.without(draws.DENSE, "rope_parameters", "hidden_act")
    | {
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
        "head_dim": (16, 8),
        "rope_scaling": draws.ROPE_SCALING,
        "rope_theta": (1000000.0, 500.0),
        "rope_local_base_freq": (10000.0, 100.0),
        "query_pre_attn_scalar": (16, 24),
        "final_logit_softcapping": (None, 30.0),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention"] * 3),
    },
)
