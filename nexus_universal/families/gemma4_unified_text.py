"""Gemma 4 unified, text: Gemma 4 without a per-layer table and without experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import gemma4_text
from nexus_universal.families.shared import draws

ABSENT = (
    "hidden_size_per_layer_input",
    "vocab_size_per_layer_input",
    "enable_moe_block",
    "num_experts",
    "top_k_experts",
    "moe_intermediate_size",
)

FAMILY = replace(
    gemma4_text.FAMILY,
    model_type="gemma4_unified_text",
    title="Gemma 4 unified (text)",
    read=partial(gemma4_text.read, unified=True),
    tiny=draws.without(gemma4_text.FAMILY.tiny, *ABSENT),
    draws=draws.without(gemma4_text.FAMILY.draws, *ABSENT),
)
