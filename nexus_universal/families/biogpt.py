"""BioGPT (arXiv 2210.10341): scaled tokens, learned positions from row 2 on, norms before each sublayer."""

from __future__ import annotations

import math

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = Size(context=1024, vocab=42384, width=1024, inner=4096, depth=24, heads=16, bos=0, eos=2, pad=1, tied=True)
NORM = Norm(kind="layer", eps=1e-5, bias=True, rounding="native")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", SIZE.width)
    return gpt.decoder(
        reader,
        SIZE,
        NORM,
        attention=lambda heads, head_dim: {},
        positions=lambda context: LearnedPositions(count=context + 2, offset=2),
        inner="intermediate_size",
        act="hidden_act",
        default_act="gelu",
        table={
            "pad": reader.take("pad_token_id", SIZE.pad, kinds=(int, type(None))),
            "scale": math.sqrt(width) if reader.take("scale_embedding", True) else None,
        },
    )


FAMILY = Family(
    model_type="biogpt",
    title="BioGPT",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "biogpt.embed_tokens",
            "embedding.positions": "biogpt.embed_positions",
            **gpt.named("biogpt.layers.{i}", gpt.FAIRSEQ),
            "final_norm": "biogpt.layer_norm",
            "head": "output_projection",
        },
    ),
    irrelevant={
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), TRAINING),
        **dict.fromkeys(("layerdrop", "activation_dropout"), TRAINING),
        "layer_norm_eps": "the reference does not read it",
    },
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 96,
    },
    draws={
        "num_attention_heads": (4, 1, 6),
        "intermediate_size": (80, 56),
        "hidden_act": ("gelu", "relu", "gelu_new"),
        "scale_embedding": (True, False),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (1, None, 0),
        "num_hidden_layers": (2, 3, 1),
    },
)
