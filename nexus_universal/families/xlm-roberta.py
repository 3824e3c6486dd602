"""XLM-RoBERTa (arXiv 1911.02116) as a decoder: RoBERTa with other defaults."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert

FAMILY = replace(
    roberta.FAMILY,
    model_type="xlm-roberta",
    title="XLM-RoBERTa",
    read=partial(bert.counted_decoder, size=bert.COUNTED),
)
