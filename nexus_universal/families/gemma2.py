"""Gemma 2 (arXiv 2408.00118): sandwich norms, capped scores and logits, every second layer windowed."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("sliding_attention", "full_attention")


def read(reader: ConfigReader, *, sandwich: bool = True) -> ArchitectureParameter:
    """The n of a config; `sandwich` norms what the sublayers give, too."""
    width = reader.count("hidden_size", 2304)
    table = {"scale": width**0.5, "scale_rounding": "model"}
    text, embedding = common.ends(reader, context=8192, vocab=256000, width=2304, bos=2, eos=1, pad=0, **table)
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    reader.inert("use_bidirectional_attention", False, None)
    full = common.attention(
        reader,
        text,
        width,
        heads=8,
        kv_heads=4,
        head_dim=256,
        kernel="eager",
        scale=reader.count("query_pre_attn_scalar", 256) ** -0.5,
        softcap=reader.number("attn_logit_softcapping", 50.0, optional=True),
    )
    windowed = replace(full, window=reader.count("sliding_window", 4096))
    depth = reader.count("num_hidden_layers", 26)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or (KINDS * depth)[:depth]
    mixers = [windowed if kind == "sliding_attention" else full for kind in kinds]
    feed_forward = common.feed_forward(reader, 9216, key="hidden_activation", act="gelu_pytorch_tanh")
    layers = common.sequential(mixers, feed_forward, norm=norm, output_norm=norm if sandwich else None)
    softcap = reader.number("final_logit_softcapping", 30.0, optional=True)
    return common.decoder(reader, text, embedding, layers, norm, tied=True, softcap=softcap)


FAMILY = Family(
    model_type="gemma2",
    title="Gemma 2",
    read=read,
    weights=names.weights(names.sandwich_norms()),
    irrelevant={
        "cache_implementation": "a default of generation",
        "hidden_act": "hidden_activation is what is read",
        "sliding_window_size": "an old name of sliding_window that the reference does not read",
    },
    tiny=draws.TINY
    | {"num_hidden_layers": 3, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "pad_token_id": 0},
    draws=draws.without(draws.DENSE, "hidden_act")
    | {
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
        "head_dim": (16, 8),
        "query_pre_attn_scalar": (16, 24),
        "attn_logit_softcapping": (50.0, 2.0, None),
        "final_logit_softcapping": (30.0, 3.0, None),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention", "full_attention"]),
    },
)
