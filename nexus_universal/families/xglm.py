"""XGLM (arXiv 2112.10668): scaled tokens, sinusoids from row 2 on, norms before each sublayer, eager attention."""

from __future__ import annotations

import math

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, SinusoidPositions
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = Size(context=2048, vocab=256008, width=1024, inner=4096, depth=24, heads=16, bos=0, eos=2, pad=1, tied=True)
NORM = Norm(kind="layer", eps=1e-5, bias=True, rounding="native")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", SIZE.width)
    pad = reader.take("pad_token_id", SIZE.pad, kinds=(int, type(None)))
    return gpt.decoder(
        reader,
        SIZE,
        NORM,
        attention=lambda heads, head_dim: {
            "scale": 1.0,
            "query_scale": head_dim**-0.5,
            "kernel": "eager_rounded",
            "contiguous": True,
        },
        positions=lambda context: SinusoidPositions(
            count=context + 2, offset=2, layout="sin_cos", closed=True, zero=pad
        ),
        inner="ffn_dim",
        default_act="gelu",
        start={"std": reader.take("init_std", 0.02)},
        table={"pad": pad, "scale": math.sqrt(width) if reader.take("scale_embedding", True) else None},
    )


FAMILY = Family(
    model_type="xglm",
    title="XGLM",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "model.embed_tokens",
            **gpt.named("model.layers.{i}", gpt.FAIRSEQ),
            "final_norm": "model.layer_norm",
            "head": "lm_head",
        },
        passed_over={r"embed_positions\.weights$": "sinusoids are computed from n"},
    ),
    aliases={"d_model": "hidden_size", "attention_heads": "num_attention_heads", "num_layers": "num_hidden_layers"},
    irrelevant=dict.fromkeys(("dropout", "activation_dropout", "layerdrop"), TRAINING),
    rope="none",
    tiny={
        "vocab_size": 97,
        "d_model": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "ffn_dim": 80,
        "max_position_embeddings": 96,
    },
    draws={
        "attention_heads": (4, 1, 6),
        "ffn_dim": (80, 56),
        "activation_function": ("gelu", "relu", "gelu_new"),
        "scale_embedding": (True, False),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (1, None, 0),
        "num_layers": (2, 3, 1),
    },
)
