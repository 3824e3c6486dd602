"""MOSS Transcribe Diarize: a Qwen3 under an audio tower, of which the text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import qwen3
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(
    family=qwen3.FAMILY,
    default={
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rope_theta": 1000000.0,
    },
)
OF_AUDIO = (
    "audio_config",
    "audio_token_id",
    "audio_merge_size",
    "audio_chunk_size",
    "projector_hidden_act",
    "projector_bias",
)

FAMILY = Family(
    model_type="moss_transcribe_diarize",
    title="MOSS Transcribe Diarize (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=True),
    weights=names.relocated(TEXT.family.weights, *names.LANGUAGE_MODEL, passed_over=names.TOWERS),
    sections={"text_config": TEXT},
    left_out=("the audio tower",),
    saved_as="qwen3",
    irrelevant=composite.IRRELEVANT | dict.fromkeys(OF_AUDIO, composite.OF_TOWERS),
    rope="none",
    tiny={
        "text_config": dict(TEXT.family.tiny),
        "audio_config": {
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "hidden_size": 16,
            "max_source_positions": 20,
        },
        "audio_token_id": 96,
    },
    draws={"text_config": draws.mixtures(TEXT.family.tiny, TEXT.family.draws), "tie_word_embeddings": (True, False)},
)
