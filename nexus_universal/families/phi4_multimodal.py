"""Phi-4-multimodal (arXiv 2503.01743): a Phi-4-mini between two towers, of which the text model is built."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import phi3
from nexus_universal.families.shared import composite, draws, names

SIZE = {
    "context": 131072,
    "vocab": 200064,
    "width": 3072,
    "bos": 199999,
    "eos": [199999, 200020],
    "pad": 199999,
}

FAMILY = replace(
    phi3.FAMILY,
    model_type="phi4_multimodal",
    title="Phi-4-multimodal (text model of)",
    read=partial(phi3.read, size=SIZE, kv_heads=8),
    weights=replace(
        phi3.FAMILY.weights,
        passed_over={
            **names.PASSED_OVER,
            r"^model\.embed_tokens_extend\.": "a tower, of which nothing is built",
        },
    ),
    left_out=("the vision tower", "the audio tower"),
    saved_as="phi3",
    irrelevant={**phi3.FAMILY.irrelevant, **dict.fromkeys(("vision_config", "audio_config"), composite.OF_TOWERS)},
    tiny={
        **phi3.FAMILY.tiny,
        "original_max_position_embeddings": 96,
        "vision_config": {**draws.TINY_VISION, "crop_size": 28, "image_token_id": 96},
        "audio_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_blocks": 1,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 16,
            "depthwise_separable_out_channel": 16,
            "nemo_conv_channels": 8,
            "audio_token_id": 95,
        },
    },
)
