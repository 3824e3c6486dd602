"""Llama 4 with its vision tower, of which the text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import llama4_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

OF_IMAGES = ("vision_config", "boi_token_index", "eoi_token_index", "image_token_index")
TEXT = Section(family=llama4_text.FAMILY)

FAMILY = Family(
    model_type="llama4",
    title="Llama 4 (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=None),
    weights=names.relocated(
        TEXT.family.weights,
        {"model.": "language_model.model.", "lm_head": "language_model.lm_head"},
        {"model.": "model.", "lm_head": "lm_head"},
        passed_over={r"^(vision_model|multi_modal_projector)\.": "a tower, of which nothing is built"},
    ),
    sections={"text_config": TEXT},
    left_out=("the vision tower",),
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_IMAGES, composite.OF_TOWERS),
    rope="none",
    tiny={"text_config": dict(TEXT.family.tiny)},
    draws={
        "text_config": draws.mixtures(TEXT.family.tiny, draws.without(dict(TEXT.family.draws), "tie_word_embeddings"))
    },
)
