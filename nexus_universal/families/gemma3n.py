"""Gemma 3n with its towers, of which the text model is built."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from nexus_universal.families import gemma3n_text, gemma4
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Reference, Section

TEXT = Section(family=gemma3n_text.FAMILY)

OF_TOWERS = (
    *("vision_config", "vision_soft_tokens_per_image", "boi_token_id", "eoi_token_id", "image_token_id"),
    *("audio_config", "audio_soft_tokens_per_image", "boa_token_id", "eoa_token_id", "audio_token_id"),
)


def _text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of the text model alone."""
    outside = {key: config[key] for key in ("tie_word_embeddings", "dtype") if key in config}
    return {"tie_word_embeddings": True, **config["text_config"], **outside}


FAMILY = Family(
    model_type="gemma3n",
    title="Gemma 3n (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=True),
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL,
        {"model.": "model.", "lm_head": "lm_head"},
        passed_over=gemma4.PASSED_OVER,
    ),
    sections={"text_config": TEXT},
    left_out=("the vision tower", "the audio tower"),
    saved_as="gemma3n_text",
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_TOWERS, composite.OF_TOWERS),
    rope="none",
    reference=Reference(model_type="gemma3n_text", config=_text_config),  # the whole class needs timm for its tower
    tiny={"text_config": dict(TEXT.family.tiny)},
    draws={"text_config": draws.mixtures(TEXT.family.tiny, TEXT.family.draws), "tie_word_embeddings": (True, False)},
)
