"""OPT (arXiv 2205.01068): learned positions that count what the mask shows, from row 2 on; norms before or after."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "model.decoder.layers.{i}"
SIZE = Size(context=2048, vocab=50272, width=768, inner=3072, depth=12, heads=12, bos=2, eos=2, pad=1, tied=True)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    learned = reader.take("layer_norm_elementwise_affine", True)
    norm = Norm(kind="layer", eps=1e-5, bias=learned, scale="weight" if learned else "none", rounding="native")
    biased = reader.take("enable_bias", True)
    before = reader.take("do_layer_norm_before", True)
    reader.inert("_remove_final_layer_norm", not before, False)
    reader.inert("word_embed_proj_dim", None, reader.count("hidden_size", SIZE.width))

    def attention(heads: int, head_dim: int) -> dict[str, Any]:
        return {"scale": 1.0, "query_scale": head_dim**-0.5} | ({} if biased else {"biases": ()})

    return gpt.decoder(
        reader,
        SIZE,
        norm,
        attention=attention,
        positions=lambda context: LearnedPositions(count=context + 2, offset=2, masked=True),
        inner="ffn_dim",
        default_act="relu",
        biases=("up", "down") if biased else (),
        normed="before" if before else "after",
        start={"std": reader.take("init_std", 0.02)},
        table={"pad": reader.take("pad_token_id", SIZE.pad, kinds=(int, type(None)))},
    )


FAMILY = Family(
    model_type="opt",
    title="OPT",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "model.decoder.embed_tokens",
            "embedding.positions": "model.decoder.embed_positions",
            **gpt.named(LAYER, gpt.FAIRSEQ),
            "final_norm": "model.decoder.final_layer_norm",
            "head": "lm_head",
        },
        optional_prefix="model.",
    ),
    irrelevant=dict.fromkeys(("dropout", "layerdrop", "activation_dropout"), TRAINING),
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 80,
        "max_position_embeddings": 96,
        "eos_token_id": 2,
    },
    draws={
        "num_attention_heads": (4, 1, 6),
        "ffn_dim": (80, 56),
        "activation_function": ("relu", "gelu", "gelu_new"),
        "do_layer_norm_before": (True, False),
        "enable_bias": (True, True, False),
        "layer_norm_elementwise_affine": (True, True, True, False),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (1, None, 0),
        "num_hidden_layers": (2, 3, 1),
    },
)
