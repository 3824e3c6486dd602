"""Mistral 7B (arXiv 2310.06825): Llama without biases, with one window in all layers or in none."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=32000, width=4096, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-6)
    window = reader.count("sliding_window", 4096, optional=True)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, biases=(), window=window)
    depth = reader.count("num_hidden_layers", 32)
    layers = common.sequential([attention] * depth, common.feed_forward(reader, 14336), norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="mistral",
    title="Mistral 7B, Mistral Nemo",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"sliding_window": 16},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {"head_dim": (None, 16, 8), "sliding_window": (16, None, 7, 128)},
)
