"""The text model of data2vec (arXiv 2202.03555) as a decoder: RoBERTa with other defaults and names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert

FAMILY = replace(
    roberta.FAMILY,
    model_type="data2vec-text",
    title="data2vec",
    read=partial(bert.counted_decoder, size=bert.COUNTED),
    weights=bert.weights("data2vec_text", bert.LM_HEAD),
)
