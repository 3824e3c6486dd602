"""BERT (arXiv 1810.04805) as a decoder: norms after the sums, rows of positions and types, a transform in the head."""

from __future__ import annotations

from functools import partial

from nexus_universal.families.shared import bert, bert_tables
from nexus_universal.families.shared.family import Family

FAMILY = Family(
    model_type="bert",
    title="BERT",
    read=partial(bert.decoder, transform={}),
    weights=bert_tables.weights("bert", bert_tables.PREDICTIONS),
    irrelevant=bert_tables.IRRELEVANT,
    rope="none",
    completes=bert_tables.COMPLETES,
    tiny=bert_tables.TINY,
    draws=bert_tables.DRAWS,
)
