"""Ministral 8B (Mistral AI): Mistral with a window layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=131072, vocab=32000, width=4096, inner=14336, depth=32, heads=32, kv_heads=8)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""

    def mixers(full: Attention, depth: int) -> Iterable[Attention]:
        window = reader.count("sliding_window", 4096, optional=True)
        kinds = common.layer_types(reader, depth, full_until=0 if window else depth)
        reader.require(
            bool(window) or "sliding_attention" not in kinds, "sliding_window", window, "layer_types needs it"
        )
        return common.windowed(kinds, full, sliding=replace(full, window=window))

    return dense.decoder(reader, SIZE, common.rms_norm(reader, 1e-6), mixers=mixers, biases=())


FAMILY = Family(
    model_type="ministral",
    title="Ministral 8B",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"num_hidden_layers": 3, "head_dim": 16, "sliding_window": 16},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention", "sliding_attention"], ["full_attention"] * 3),
    },
)
