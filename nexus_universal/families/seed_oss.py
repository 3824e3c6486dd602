"""Seed-OSS (ByteDance): Llama with biases on queries, keys and values, and heads wider than the residual asks for."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = dense.Size(
    context=524288,
    vocab=155136,
    width=4096,
    inner=27648,
    depth=64,
    heads=80,
    kv_heads=8,
    head_dim=128,
    bos=0,
    pad=1,
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    biases = common.INPUT_BIASES if reader.take("attention_bias", True) else ()
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-6),
        null_head_dim=True,
        feed_forward=dense.gated_biases(reader),
        biases=(*biases, *(("output",) if reader.take("attention_out_bias", False) else ())),
    )


FAMILY = Family(
    model_type="seed_oss",
    title="Seed-OSS",
    read=read,
    weights=names.weights(),
    irrelevant={
        "pretraining_tp": "split products in training; transformers no longer reads it",
        "residual_dropout": TRAINING,
    },
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 1},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, None, 8),
        "attention_bias": (True, False),
        "attention_out_bias": (False, True),
        "mlp_bias": (False, True),
        "pad_token_id": (1, None),
    },
)
