"""RoBERTa (arXiv 1907.11692) as a decoder: BERT whose positions do not count pads and begin behind the pad's row."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables

FAMILY = replace(
    plain.FAMILY,
    model_type="roberta",
    title="RoBERTa",
    read=partial(bert.counted_decoder, size=replace(bert.COUNTED, vocab=50265)),
    weights=bert_tables.weights("roberta", bert_tables.LM_HEAD),
    draws=bert_tables.COUNTED_DRAWS,
)
