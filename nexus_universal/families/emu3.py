"""Emu3 (arXiv 2409.18869), which sees and draws through a quantiser; its text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import emu3_text_model
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(family=emu3_text_model.FAMILY)
TINY = dict(TEXT.family.tiny)

FAMILY = Family(
    model_type="emu3",
    title="Emu3 (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=None),
    weights=names.relocated(
        TEXT.family.weights,
        {"model.": "model.text_model.", "lm_head": "lm_head"},
        {"model.": "text_model.model.", "lm_head": "text_model.lm_head"},
        {"model.": "model.", "lm_head": "lm_head"},
        passed_over={r"^(model\.)?vqmodel\.": "the quantiser of images, of which nothing is built"},
    ),
    sections={"text_config": TEXT},
    left_out=("the quantiser of images",),
    irrelevant=composite.IRRELEVANT
    | dict.fromkeys(("vq_config", "vocabulary_map", "image_token_id"), composite.OF_TOWERS),
    rope="none",
    tiny={"text_config": TINY},
    draws={"text_config": draws.mixtures(TINY, draws.without(dict(TEXT.family.draws), "tie_word_embeddings"))},
)
