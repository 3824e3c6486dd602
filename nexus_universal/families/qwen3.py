"""Qwen3 (arXiv 2505.09388): per-head RMS norms on queries and keys; windows in the upper layers if asked for."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=32768, bos=None, eos=None, pad=None)
    embedding = common.embedding(reader, vocab=151936, width=4096, pad=text.pad)
    norm = common.rms_norm(reader, 1e-6)
    heads = reader.count("num_attention_heads", 32)
    full = Attention(
        heads=heads,
        kv_heads=common.kv_heads(reader, heads, 32),
        head_dim=reader.count("head_dim", 128),
        rope=common.rope(reader.section("rope_parameters"), context=text.context),
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
        qk_norm=QueryKeyNorm(norm=norm),
    )
    feed_forward = FeedForward(width=reader.count("intermediate_size", 22016), activation=common.activation(reader))
    window = common.window_if_used(reader)
    kinds = {"full_attention": full, "sliding_attention": replace(full, window=window)}
    depth = reader.count("num_hidden_layers", 32)
    first_windowed = reader.take("max_window_layers", 28)
    kinds_of_layers = common.layer_types(reader, depth, full_until=first_windowed if window else depth)
    if window is None and "sliding_attention" in kinds_of_layers:
        raise reader.refuse("layer_types", "sliding_attention", "needs use_sliding_window = true and a sliding_window")
    layers = {
        name: sequential_layer(("attention", kind), ("feed_forward", feed_forward), norm=norm)
        for name, kind in kinds.items()
    }
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers[name] for name in kinds_of_layers),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", False)),
        text=text,
    )


FAMILY = Family(
    model_type="qwen3",
    title="Qwen3",
    read=read,
    weights=WeightMap(
        tensors=names.ends() | names.attention() | names.gated() | names.pre_norms(),
        passed_over=names.PASSED_OVER,
    ),
    tiny=draws.TINY | {"head_dim": 16},
    draws=draws.DENSE
    | {
        "head_dim": (16, 8),
        "num_hidden_layers": (2, 3),
        "use_sliding_window": (False, True),
        "sliding_window": (7, 24, 64),
        "max_window_layers": (1, 0, 2),
    },
)
