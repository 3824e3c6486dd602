"""ERNIE 4.5, dense (Baidu): Llama rotated in pairs, the rotation in float32, and one key for all biases."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=131072,
    vocab=103424,
    width=1024,
    inner=3072,
    depth=18,
    heads=16,
    kv_heads=2,
    head_dim=128,
    pad=0,
    tied=True,
)
ROTATION: dict[str, Any] = {"pairing": "interleaved", "table": "float32", "product": "float32"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        null_head_dim=True,
        rope=ROTATION,
        feed_forward=dense.gated_biases(reader, "use_bias"),
        biases=common.ALL_BIASES if reader.take("use_bias", False) else (),
    )


FAMILY = Family(
    model_type="ernie4_5",
    title="ERNIE 4.5 (dense)",
    read=read,
    weights=names.weights(),
    rope_theta=500000.0,
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 0},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, None, 8),
        "use_bias": (False, True),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (0, None),
    },
)
