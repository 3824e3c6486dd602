"""Megatron-BERT (arXiv 1909.08053) as a decoder: norms before its sublayers and at the end; scores are divided."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables

SIZE = replace(bert.SIZE, vocab=29056, width=1024, inner=4096, depth=24, heads=16)
NORMS = bert_tables.pre_norms("bert", attention="attention.ln", feed_forward="ln", final="encoder.ln")

FAMILY = replace(
    plain.FAMILY,
    model_type="megatron-bert",
    title="Megatron-BERT",
    read=partial(bert.decoder, size=SIZE, normed="before", table={"norm": None}, transform={}, kernel="eager_divided"),
    weights=bert_tables.weights("bert", bert_tables.PREDICTIONS, NORMS),
)
