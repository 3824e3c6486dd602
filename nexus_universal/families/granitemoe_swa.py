"""Granite with experts and windows (IBM): sinks, three windowed layers of four, a base of rotation per layer."""

from __future__ import annotations

from functools import partial

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import granitemoeshared
from nexus_universal.families.shared import granite, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return granite.decoder(reader, mixers=partial(granite.windowed, reader), sinks=True, kernel="eager_gated")


FAMILY = Family(
    model_type="granitemoe_swa",
    title="Granite MoE (windowed)",
    read=read,
    weights=names.weights(granite.held_experts(), granite.beside_experts(), granite.SINKS),
    tiny={**granitemoeshared.FAMILY.tiny, "num_hidden_layers": 5, "sliding_window": 16},
    draws={**granitemoeshared.FAMILY.draws, **granite.WINDOW_DRAWS},
)
