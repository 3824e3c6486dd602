"""Qwen3 (arXiv 2505.09388): per-head RMS norms on queries and keys; windows in the upper layers if asked for."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=4096)
    norm = common.rms_norm(reader, 1e-6)
    normed = QueryKeyNorm(norm=norm)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=32, head_dim=128, qk_norm=normed)
    attentions = common.windowed_above(reader, attention, reader.count("num_hidden_layers", 32))
    layers = common.sequential(attentions, common.feed_forward(reader, 22016), norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="qwen3",
    title="Qwen3",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"head_dim": 16},
    draws=draws.DENSE | draws.WINDOWED_ABOVE | {"head_dim": (16, 8), "num_hidden_layers": (2, 3)},
)
