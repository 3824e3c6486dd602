"""Gemma 4 with its towers, of which the text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import gemma4_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(family=gemma4_text.FAMILY)

OF_TOWERS = (
    *("vision_config", "boi_token_id", "eoi_token_id", "image_token_id", "video_token_id"),
    *("audio_config", "boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id"),
    *("vision_soft_tokens_per_image", "audio_soft_tokens_per_image"),
)
PASSED_OVER = {
    r"^(model\.)?(vision_tower|audio_tower|embed_vision|embed_audio)\.": "a tower, of which nothing is built"
}
NO_PLACES = dict.fromkeys(("image_token_id", "video_token_id", "audio_token_id"), 0)
"""Places of images and sounds are embedded as pads; the pad as such a place leaves every id a text's."""
APART = ("pad_token_id", "hidden_size_per_layer_input")
"""The reference needs a pad, and a per-layer table where layers reuse keys and values."""

FAMILY = Family(
    model_type="gemma4",
    title="Gemma 4 (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=True),
    weights=names.relocated(TEXT.family.weights, *names.LANGUAGE_MODEL, passed_over=PASSED_OVER),
    sections={"text_config": TEXT},
    left_out=("the vision tower", "the audio tower"),
    saved_as="gemma4_text",
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_TOWERS, composite.OF_TOWERS),
    rope="none",
    tiny={
        "text_config": dict(TEXT.family.tiny),
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "position_embedding_size": 16,
        },
        **NO_PLACES,
    },
    draws={
        "text_config": (
            *draws.mixtures(TEXT.family.tiny, draws.without(dict(TEXT.family.draws), *APART)),
            {**TEXT.family.tiny, "hidden_size_per_layer_input": 0},
        ),
        "tie_word_embeddings": (True, False),
    },
)
