"""Gemma 3 (arXiv 2503.19786) with its vision tower, of which the text model is built."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import gemma3_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section
from nexus_universal.families.shared.reader import ConfigReader

OF_IMAGES = ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index")
TEXT = Section(family=gemma3_text.FAMILY)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; beside the tower the reference caps no logits."""
    n = composite.text_model(reader, TEXT, tied=True)
    return replace(n, head=replace(n.head, softcap=None))


FAMILY = Family(
    model_type="gemma3",
    title="Gemma 3 (text model of)",
    read=read,
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL,
        passed_over=names.TOWERS,
    ),
    sections={"text_config": TEXT},
    left_out=("the vision tower",),
    saved_as="gemma3_text",
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_IMAGES, composite.OF_TOWERS),
    rope="none",
    tiny={
        "text_config": dict(TEXT.family.tiny),
        "vision_config": draws.TINY_VISION,
        "image_token_index": 96,
    },
    draws={"text_config": draws.mixtures(TEXT.family.tiny, TEXT.family.draws), "tie_word_embeddings": (True, False)},
)
