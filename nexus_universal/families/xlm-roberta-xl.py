"""XLM-RoBERTa XL (arXiv 2105.00572) as a decoder: RoBERTa with norms before its sublayers, none on the embedding."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import roberta
from nexus_universal.families.shared import bert, bert_tables

SIZE = replace(bert.COUNTED, context=514, vocab=250880, width=2560, inner=10240, depth=36, heads=32)

FAMILY = replace(
    roberta.FAMILY,
    model_type="xlm-roberta-xl",
    title="XLM-RoBERTa XL",
    read=partial(bert.counted_decoder, size=SIZE, types=1, normed="before", table={"norm": None}, eps=1e-5),
    weights=bert_tables.weights(
        "roberta",
        bert_tables.LM_HEAD,
        bert_tables.pre_norms(
            "roberta",
            attention="attention.self_attn_layer_norm",
            feed_forward="LayerNorm",
            final="encoder.LayerNorm",
        ),
    ),
)
