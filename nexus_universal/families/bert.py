"""BERT (arXiv 1810.04805) as a decoder: norms after the sums, rows of positions and types, a transform in the head."""

from __future__ import annotations

from functools import partial

from nexus_universal.families.shared import bert
from nexus_universal.families.shared.family import Family

FAMILY = Family(
    model_type="bert",
    title="BERT",
    read=partial(bert.decoder, transform={}),
    weights=bert.weights("bert", bert.PREDICTIONS),
    irrelevant=bert.IRRELEVANT,
    rope="none",
    completes=bert.COMPLETES,
    tiny=bert.TINY,
    draws=bert.DRAWS,
)
