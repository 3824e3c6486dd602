"""CamemBERT (arXiv 1911.03894) as a decoder: RoBERTa with other defaults."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert

FAMILY = replace(
    roberta.FAMILY,
    model_type="camembert",
    title="CamemBERT",
    read=partial(bert.counted_decoder, size=bert.COUNTED),
)
