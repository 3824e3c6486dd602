"""Fuyu 8B (Adept): a Persimmon that reads image patches through one projection, which is left out."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import persimmon
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(family=persimmon.FAMILY)
OF_IMAGES = ("image_size", "patch_size", "num_channels", "image_token_id")

FAMILY = Family(
    model_type="fuyu",
    title="Fuyu 8B (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=False),
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL,
        passed_over={r"^(model\.)?vision_embed_tokens\.": "reads image patches, which are left out"},
    ),
    left_out=("the projection of image patches",),
    saved_as="persimmon",
    sections={"text_config": TEXT},
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_IMAGES, composite.OF_TOWERS),
    rope="none",
    tiny={"text_config": dict(TEXT.family.tiny), "image_token_id": 96, "patch_size": 4},
    draws={"text_config": draws.mixtures(TEXT.family.tiny, TEXT.family.draws), "tie_word_embeddings": (False, True)},
)
