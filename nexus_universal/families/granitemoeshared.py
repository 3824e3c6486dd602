"""Granite with experts beside a network that every token visits (IBM)."""

from __future__ import annotations

from nexus_universal.families import granitemoe
from nexus_universal.families.shared import granite, names
from nexus_universal.families.shared.family import Family

FAMILY = Family(
    model_type="granitemoeshared",
    title="Granite MoE (shared)",
    read=granite.decoder,
    weights=names.weights(granite.experts(), granite.beside_experts()),
    tiny={**granitemoe.FAMILY.tiny, "shared_intermediate_size": 40},
    draws={**granitemoe.FAMILY.draws, "shared_intermediate_size": (40, 0, 24)},
)
