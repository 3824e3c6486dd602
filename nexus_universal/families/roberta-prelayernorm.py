"""RoBERTa with norms before its sublayers and one at the end (as fairseq calls it, arXiv 1904.01038)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert, bert_tables

MODEL = "roberta_prelayernorm"

FAMILY = replace(
    roberta.FAMILY,
    model_type="roberta-prelayernorm",
    title="RoBERTa-PreLayerNorm",
    read=partial(bert.counted_decoder, size=replace(bert.COUNTED, vocab=50265), normed="before"),
    weights=bert_tables.weights(
        MODEL,
        bert_tables.LM_HEAD,
        bert_tables.pre_norms(
            MODEL, attention="attention.LayerNorm", feed_forward="intermediate.LayerNorm", final="LayerNorm"
        ),
    ),
)
