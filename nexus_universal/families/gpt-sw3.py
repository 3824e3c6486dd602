"""GPT-SW3 (arXiv 2305.12987): GPT-2 under another name."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.families import gpt2
from nexus_universal.families.shared.family import Reference

FAMILY = replace(
    gpt2.FAMILY,
    model_type="gpt-sw3",
    title="GPT-SW3",
    reference=Reference(model_type="gpt2", config=dict),
)
