"""Phi-3, Phi-3.5 and Phi-4 (arXiv 2404.14219): packed projections, long contexts by LongRoPE, partial rotation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

ROTATIONS = {"default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"}
"""The reference knows no others; two are old names: configuration_phi3.py."""

UNREAD = {
    "attention_bias": False,
    "full_attn_mod": 1,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "mlp_bias": False,
}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""

PHI_4_MINI = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.5, 2.0, 4.0],
}
"""Part of each head, and a factor that follows from the two contexts."""


SIZE = {"context": 4096, "vocab": 32064, "width": 3072, "bos": 1, "eos": 32000, "pad": 32000}


def read(reader: ConfigReader, size: Mapping[str, Any] = SIZE, *, kv_heads: int | None = None) -> ArchitectureParameter:
    """The n of a config; `size` and `kv_heads` are the reference class's defaults."""
    text, embedding = common.ends(reader, **size)
    norm = common.rms_norm(reader, 1e-5)
    original = reader.count("original_context", 4096)
    text = replace(text, reread_beyond=original)
    rope = rotary.rope(
        reader.section("rope_parameters"),
        context=text.context,
        takes_fraction=True,
        kinds=ROTATIONS,
        original_context=original,
    )
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=32,
        kv_heads=kv_heads,
        rope=rope,
        biases=(),
        window=reader.count("sliding_window", optional=True),
        packing=(Packed(roles=("query", "key", "value")),),
    )
    feed_forward = common.feed_forward(reader, 8192, packing=(Packed(roles=("gate", "up")),))
    for key, value in UNREAD.items():
        reader.inert(key, value)
    depth = reader.count("num_hidden_layers", 32)
    layers = common.sequential([attention] * depth, feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="phi3",
    title="Phi-3, Phi-3.5, Phi-4",
    read=read,
    weights=names.weights(
        names.packed_gated(), {"layers.{i}.attention.query_key_value": f"{names.LAYER}.self_attn.qkv_proj"}
    ),
    aliases={"original_max_position_embeddings": "original_context"},
    irrelevant=dict.fromkeys(("resid_pdrop", "embd_pdrop"), TRAINING),
    partial_rotary_factor=1.0,
    tiny=draws.TINY | {"original_max_position_embeddings": 16, "eos_token_id": 3, "pad_token_id": 0},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "rope_parameters": (*(rope for rope in draws.ROPE if rope["rope_type"] in ("default", "longrope")), PHI_4_MINI),
        "original_max_position_embeddings": (16, 96),
        "sliding_window": (None, 7, 24),
        "pad_token_id": (0, None),
    },
)
