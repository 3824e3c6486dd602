"""The text model of data2vec (arXiv 2202.03555) as a decoder: RoBERTa with other defaults and names."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert, bert_tables

FAMILY = replace(
    roberta.FAMILY,
    model_type="data2vec-text",
    title="data2vec",
    read=partial(bert.counted_decoder, size=bert.COUNTED),
    weights=bert_tables.weights("data2vec_text", bert_tables.LM_HEAD),
)
