"""GOT-OCR 2.0 (arXiv 2409.01704): a Qwen2 under a vision tower, of which the text model is built."""

from __future__ import annotations

from functools import partial

from nexus_universal.families import qwen2
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section

TEXT = Section(
    family=qwen2.FAMILY,
    default={
        "vocab_size": 151860,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "rope_theta": 1000000.0,
        "max_window_layers": 21,
    },
)

FAMILY = Family(
    model_type="got_ocr2",
    title="GOT-OCR 2.0 (text model of)",
    read=partial(composite.text_model, section=TEXT, tied=True),
    weights=names.relocated(TEXT.family.weights, *names.LANGUAGE_MODEL, passed_over=names.TOWERS),
    sections={"text_config": TEXT},
    left_out=("the vision tower",),
    saved_as="qwen2",
    irrelevant=composite.IRRELEVANT
    | dict.fromkeys(("vision_config", "image_token_index", "image_seq_length"), composite.OF_TOWERS),
    rope="none",
    tiny={
        "text_config": dict(TEXT.family.tiny),
        "vision_config": {
            "hidden_size": 16,
            "output_channels": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 64,
            "mlp_dim": 16,
            "global_attn_indexes": [0],
        },
        "image_token_index": 96,
    },
    draws={"text_config": draws.mixtures(TEXT.family.tiny, TEXT.family.draws), "tie_word_embeddings": (True, False)},
)
