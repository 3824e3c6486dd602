"""CTRL (arXiv 1909.05858): scaled tokens and sinusoids, first all sines and then all cosines; a head with a bias."""

from __future__ import annotations

import math

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, SinusoidPositions
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=256, vocab=246534, width=1280, inner=8192, depth=48, heads=16, bos=None, eos=None, tied=True)
NORM = Norm(kind="layer", eps=1e-6, bias=True, rounding="native")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; the last norm alone has an epsilon in it."""
    width = reader.count("hidden_size", SIZE.width)
    return gpt.decoder(
        reader,
        SIZE,
        NORM,
        attention=lambda heads, head_dim: {},
        positions=lambda context: SinusoidPositions(count=context, layout="sin_cos", angles="float32"),
        inner="dff",
        act=None,
        default_act="relu",
        final_norm=gpt.norm(reader, eps=1e-6),
        table={"scale": math.sqrt(width), "scale_inputs": True},
        head={"bias": True},
    )


FAMILY = Family(
    model_type="ctrl",
    title="CTRL",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.w",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "layernorm1",
                    "attention.query": "multi_head_attention.Wq",
                    "attention.key": "multi_head_attention.Wk",
                    "attention.value": "multi_head_attention.Wv",
                    "attention.output": "multi_head_attention.dense",
                    "feed_forward_norm": "layernorm2",
                    "feed_forward.up": "ffn.0",
                    "feed_forward.down": "ffn.2",
                },
            ),
            "final_norm": "transformer.layernorm",
            "head": "lm_head",
        },
        passed_over={r"pos_encoding$": "sinusoids are computed from n"},
    ),
    aliases=gpt.ALIASES,
    irrelevant=gpt.IRRELEVANT | {"from_tf": "says where the file comes from"},
    rope="none",
    tiny=gpt.TINY | {"dff": 80},
    draws={
        "n_head": (4, 1, 6),
        "n_embd": (48, 36),
        "dff": (80, 56),
        "layer_norm_epsilon": (1e-6, 1e-3),
        "tie_word_embeddings": (True, False),
        "n_layer": (2, 3, 1),
    },
)
