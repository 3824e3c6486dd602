"""Jais 2 (Inception, MBZUAI): LayerNorms, biases everywhere, a plain feed-forward of squared ReLU."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=8192, vocab=150272, width=3328, inner=26624, depth=32, heads=26, bos=0, eos=150024)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(
        reader,
        SIZE,
        Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), bias=True, rounding="native"),
        feed_forward=dense.plain_biases(reader, default=True),
        biases=common.ALL_BIASES if reader.take("attention_bias", True) else (),
    )


FAMILY = Family(
    model_type="jais2",
    title="Jais 2",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"eos_token_id": 3},
    draws=draws.without(draws.DENSE, "rms_norm_eps")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (None, 16),
        "hidden_act": ("relu2", "silu"),
        "attention_bias": (True, False),
        "mlp_bias": (True, False),
        "layer_norm_eps": (1e-5, 1e-3),
    },
)
