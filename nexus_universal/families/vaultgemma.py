"""VaultGemma (arXiv 2510.15001): Gemma 2 without the norms behind its sublayers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import gemma2
from nexus_universal.families.shared import names

FAMILY = replace(
    gemma2.FAMILY,
    model_type="vaultgemma",
    title="VaultGemma",
    read=partial(gemma2.read, sandwich=False),
    weights=names.weights({"layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_feedforward_layernorm"}),
)
