"""Apertus (arXiv 2509.14233): a plain feed-forward of xIELU, whose shape is learned, and normed heads."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=65536, vocab=131072, width=4096, inner=14336, depth=32, heads=32, pad=3)
ACTIVATIONS = {**common.ACTIVATIONS, "xielu": "xielu"}
ACTIVATION = f"{names.LAYER}.mlp.act_fn"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    plain = {"gated": False, "act": "xielu", "known": ACTIVATIONS}
    return dense.decoder(reader, SIZE, norm, feed_forward=plain, qk_norm=QueryKeyNorm(norm=norm))


FAMILY = Family(
    model_type="apertus",
    title="Apertus",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention_norm": f"{names.LAYER}.attention_layernorm",
            "layers.{i}.feed_forward_norm": f"{names.LAYER}.feedforward_layernorm",
            "layers.{i}.feed_forward.activation.positive": f"{ACTIVATION}.alpha_p",
            "layers.{i}.feed_forward.activation.negative": f"{ACTIVATION}.alpha_n",
            "layers.{i}.feed_forward.activation.slope": f"{ACTIVATION}.beta",
            "layers.{i}.feed_forward.activation.bound": f"{ACTIVATION}.eps",
        }
    ),
    rope_theta=12000000.0,
    rope_default={
        "rope_type": "llama3",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    tiny=draws.TINY | {"pad_token_id": 3},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "hidden_act": ("xielu", "silu", "relu2"),
        "pad_token_id": (3, None),
    },
)
