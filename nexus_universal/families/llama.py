"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783): the plain sequential pre-norm decoder."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=4096, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-6)
    attention = common.attention(reader, text, embedding.width, heads=32)
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = common.feed_forward(reader, 11008, biases=biases)
    depth = reader.count("num_hidden_layers", 32)
    layers = common.sequential([attention] * depth, feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="llama",
    title="Llama 2, 3",
    read=read,
    weights=names.weights(),
    irrelevant={"pretraining_tp": "split products in training; transformers no longer reads it"},
    tiny=draws.TINY,
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (None, 16, 8),
        "mlp_bias": (False, True),
        "hidden_act": ("silu", "gelu", "gelu_pytorch_tanh", "relu"),
        "num_hidden_layers": (2, 1, 3),
    },
)
