"""Gemma 3, text (arXiv 2503.19786): sandwich norms of the (1 + w) kind, five windowed layers to one full."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=131072, bos=2, eos=1, pad=0)
    width = reader.count("hidden_size", 2304)
    embedding = common.embedding(
        reader, vocab=262208, width=2304, pad=text.pad, scale=width**0.5, scale_rounding="model"
    )
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    reader.inert("attn_logit_softcapping", None)
    reader.inert("use_bidirectional_attention", False, None)
    heads = reader.count("num_attention_heads", 8)
    ropes = reader.section("rope_parameters")
    full = Attention(
        heads=heads,
        kv_heads=reader.count("num_key_value_heads", 4),
        head_dim=reader.count("head_dim", 256),
        rope=common.rope(ropes.section("full_attention"), context=text.context, nested=True),
        scale=reader.count("query_pre_attn_scalar", 256) ** -0.5,
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
        qk_norm=QueryKeyNorm(norm=norm),
    )
    sliding = replace(
        full,
        rope=common.rope(ropes.section("sliding_attention"), context=text.context, nested=True),
        window=reader.count("sliding_window", 4096),
    )
    kinds = {"full_attention": full, "sliding_attention": sliding}
    feed_forward = FeedForward(
        width=reader.count("intermediate_size", 9216),
        activation=common.activation(reader, "hidden_activation", "gelu_pytorch_tanh"),
    )
    kinds_of_layers = common.layer_types(reader, reader.count("num_hidden_layers", 26), full_every=6)
    layers = {
        name: sequential_layer(("attention", kind), ("feed_forward", feed_forward), norm=norm, output_norm=norm)
        for name, kind in kinds.items()
    }
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers[name] for name in kinds_of_layers),
        final_norm=norm,
        head=Head(
            tied=reader.take("tie_word_embeddings", True), softcap=reader.number("final_logit_softcapping", None)
        ),
        text=text,
    )


FAMILY = Family(
    model_type="gemma3_text",
    title="Gemma 3 (text)",
    read=read,
    weights=WeightMap(
        tensors=names.ends()
        | names.attention()
        | names.gated()
        | {
            "layers.{i}.attention_norm": f"{names.LAYER}.input_layernorm",
            "layers.{i}.attention_output_norm": f"{names.LAYER}.post_attention_layernorm",
            "layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_feedforward_layernorm",
            "layers.{i}.feed_forward_output_norm": f"{names.LAYER}.post_feedforward_layernorm",
        },
        passed_over=names.PASSED_OVER,
    ),
    irrelevant={
        "cache_implementation": "a default of generation",
        "hidden_act": "hidden_activation is what is read",
        "_sliding_window_pattern": "a trace of how layer_types was derived",
    },
    rope="by_layer_type",
    rope_theta={"full_attention": 1000000.0, "sliding_attention": 10000.0},
    tiny=draws.TINY
    | {"num_hidden_layers": 6, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "pad_token_id": 0},
    draws={key: values for key, values in draws.DENSE.items() if key not in ("rope_parameters", "hidden_act")}
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
