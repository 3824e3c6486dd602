"""Granite 3 with experts (IBM): Granite's multipliers, and experts that share a softmax over the chosen."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import draws, granite, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return granite.decoder(reader, with_shared=False)


FAMILY = Family(
    model_type="granitemoe",
    title="Granite 3 MoE",
    read=read,
    weights=names.weights(granite.experts(), granite.EXPERTS_NORM),
    tiny=draws.TINY | granite.MULTIPLIERS | {"intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": 3},
    draws=draws.DENSE
    | granite.MULTIPLIER_DRAWS
    | granite.EXPERT_DRAWS
    | {"num_key_value_heads": (2, 4, 1, None), "head_dim": (16, 8)},
)
