"""BERT for generation (arXiv 1907.12461): without rows of types and without a transform in the head."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables, draws

SIZE = replace(bert.SIZE, vocab=50358, width=1024, inner=4096, depth=24, heads=16, bos=2, eos=1)

FAMILY = replace(
    plain.FAMILY,
    model_type="bert-generation",
    title="BertGeneration",
    read=partial(bert.decoder, size=SIZE, types=None),
    weights=bert_tables.weights("bert", bert_tables.LM_HEAD),
    draws=draws.without(bert_tables.DRAWS, "type_vocab_size"),
)
