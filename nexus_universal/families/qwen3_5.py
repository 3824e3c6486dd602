"""Qwen3.5 with its vision tower, of which the text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import qwen3_5_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(family=qwen3_5_text.FAMILY)

OF_IMAGES = ("vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")

FAMILY = Family(
    model_type="qwen3_5",
    title="Qwen3.5 (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=None),
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL_OF_TEXT_CLASS,
        passed_over={r"^model\.visual\.": "a tower, of which nothing is built"},
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
