"""Granite 3 (IBM): Llama with four multipliers, of the embedding, the scores, the residual branches and the logits."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    table = {"scale": reader.number("embedding_multiplier", 1.0), "scale_inputs": True}
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=4096, bos=1, eos=2, **table)
    norm = common.rms_norm(reader, 1e-6)
    scale = reader.number("attention_multiplier", 1.0)
    attention = common.attention(reader, text, embedding.width, heads=32, scale=scale)
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = common.feed_forward(reader, 11008, biases=biases)
    mixers = [attention] * reader.count("num_hidden_layers", 32)
    layers = common.sequential(mixers, feed_forward, norm=norm, scale=reader.number("residual_multiplier", 1.0))
    return common.decoder(reader, text, embedding, layers, norm, divisor=reader.number("logits_scaling", 1.0))


FAMILY = Family(
    model_type="granite",
    title="Granite 3",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY
    | {
        "embedding_multiplier": 12.0,
        "attention_multiplier": 0.25,
        "residual_multiplier": 0.22,
        "logits_scaling": 7.0,
    },
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 8),
        "mlp_bias": (False, True),
        "embedding_multiplier": (12.0, 1.0, 6, 5.3),
        "attention_multiplier": (0.25, 0.0078125),
        "residual_multiplier": (0.22, 1.0),
        "logits_scaling": (7.0, 1.0, 16),
    },
)
