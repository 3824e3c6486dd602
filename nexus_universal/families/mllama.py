"""Llama 3.2 with vision (arXiv 2407.21783, 7): its text model, and the layers that look at images carried along."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import mllama_text_model
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(family=mllama_text_model.FAMILY)
TINY = dict(TEXT.family.tiny)

FAMILY = Family(
    model_type="mllama",
    title="Llama 3.2 Vision (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=None),
    weights=replace(
        names.relocated(
            TEXT.family.weights,
            {"model.": "model.", "lm_head": "lm_head"},
            {"model.": "model.language_model.", "lm_head": "lm_head"},
            {"model.": "language_model.model.", "lm_head": "language_model.lm_head"},
            passed_over={
                r"^(model\.)?(vision_model|multi_modal_projector)\.": "a tower, of which nothing is built",
                r"^(model\.language_model|language_model\.model)\.layers\.{idle}\.": "looks at images, left out",
            },
        ),
        carried=TEXT.family.weights.carried,
    ),
    sections={"text_config": TEXT},
    left_out=("the vision tower", *TEXT.family.left_out),
    irrelevant=composite.IRRELEVANT | dict.fromkeys(("vision_config", "image_token_index"), composite.OF_TOWERS),
    rope="none",
    tiny={"text_config": TINY, "vision_config": draws.TINY_VISION, "image_token_index": 97},
    draws={"text_config": draws.mixtures(TINY, TEXT.family.draws)},
)
