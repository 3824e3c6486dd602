"""Qwen2, Qwen2.5 (arXiv 2407.10671): biases on queries, keys and values; windows in the upper layers if asked for."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=4096)
    norm = common.rms_norm(reader, 1e-6)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=32, biases=common.INPUT_BIASES)
    reader.inert("use_mrope", False)
    attentions = common.windowed_above(reader, attention, reader.count("num_hidden_layers", 32))
    layers = common.sequential(attentions, common.feed_forward(reader, 22016), norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="qwen2",
    title="Qwen2, Qwen2.5, QwQ",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY,
    draws=draws.without(draws.DENSE, "attention_bias")
    | draws.WINDOWED_ABOVE
    | {"head_dim": (16, 24), "num_hidden_layers": (2, 3)},
)
