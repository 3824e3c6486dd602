"""Qwen4-Exp and its vision tower, of which the text model is built."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import qwen3_5, qwen4_exp_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Section

TEXT = Section(family=qwen4_exp_text.FAMILY)

FAMILY = replace(
    qwen3_5.FAMILY,
    model_type="qwen4_exp",
    title="Qwen4-Exp (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=None),
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL_OF_TEXT_CLASS,
        passed_over={r"^model\.visual\.": "a tower, of which nothing is built"},
    ),
    sections={"text_config": TEXT},
    completes={"text_config": dict(TEXT.family.completes)},
    tiny={"text_config": dict(TEXT.family.tiny)},
    draws={
        "text_config": draws.mixtures(TEXT.family.tiny, draws.without(dict(TEXT.family.draws), "tie_word_embeddings"))
    },
)
