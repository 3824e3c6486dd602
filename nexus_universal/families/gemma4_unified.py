"""Gemma 4 unified with what embeds its images and sounds, of which the text model is built."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import gemma4, gemma4_unified_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Section

TEXT = Section(family=gemma4_unified_text.FAMILY)
TINY = {**TEXT.family.tiny, "use_bidirectional_attention": None}
"""With "vision" the reference writes every mask out, whose kernel has the same bits in some calls only."""

FAMILY = replace(
    gemma4.FAMILY,
    model_type="gemma4_unified",
    title="Gemma 4 unified (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=True),
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL,
        passed_over=gemma4.PASSED_OVER | {r"^(model\.)?vision_embedder\.": "a tower, of which nothing is built"},
    ),
    sections={"text_config": TEXT},
    saved_as="gemma4_unified_text",
    tiny={
        "text_config": TINY,
        "vision_config": {"patch_size": 4, "mm_embed_dim": 16, "mm_posemb_size": 12, "output_proj_dims": 64},
        **gemma4.NO_PLACES,
    },
    draws={
        "text_config": draws.mixtures(TINY, draws.without(dict(TEXT.family.draws), "pad_token_id")),
        "tie_word_embeddings": (True, False),
    },
)
