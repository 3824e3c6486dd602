"""Names, draws and unread keys of BERT and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import names
from nexus_universal.families.shared.reader import TRAINING

LAYER = "encoder.layer.{i}"
PASSED_OVER = {
    r"embeddings\.(position|token_type)_ids$": "counted per call",
    r"\.pooler\.": "a pooler, which no logit depends on",
    r"(predictions|lm_head)\.(decoder\.)?bias$": "the head's bias once more",
}

COMPLETES = {"is_decoder": True}
IRRELEVANT: dict[str, str] = dict.fromkeys(
    ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), TRAINING
)
TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "is_decoder": True,
}
DRAWS: dict[str, tuple[Any, ...]] = {
    "num_attention_heads": (4, 1, 6),
    "intermediate_size": (80, 56),
    "hidden_act": ("gelu", "relu", "gelu_new", "silu"),
    "layer_norm_eps": (1e-12, 1e-3),
    "type_vocab_size": (2, 1),
    "tie_word_embeddings": (True, False),
    "num_hidden_layers": (2, 3),
    "pad_token_id": (0, 5, None),
}
COUNTED_DRAWS = DRAWS | {"pad_token_id": (1, 0, 5)}


def weights(
    model: str,
    *tables: names.Names,
    passed_over: Mapping[str, str] | None = None,
    carried: Mapping[str, str] | None = None,
) -> WeightMap:
    """BERT's names, which begin with `model`; tables add to them or take precedence."""
    embeddings, layer = f"{model}.embeddings", f"{model}.{LAYER}"
    tensors: names.Names = {
        "embedding.tokens": f"{embeddings}.word_embeddings",
        "embedding.positions": f"{embeddings}.position_embeddings",
        "embedding.types": f"{embeddings}.token_type_embeddings",
        "embedding.norm": f"{embeddings}.LayerNorm",
        "layers.{i}.attention.query": f"{layer}.attention.self.query",
        "layers.{i}.attention.key": f"{layer}.attention.self.key",
        "layers.{i}.attention.value": f"{layer}.attention.self.value",
        "layers.{i}.attention.output": f"{layer}.attention.output.dense",
        "layers.{i}.attention_x_write_norm": f"{layer}.attention.output.LayerNorm",
        "layers.{i}.feed_forward.up": f"{layer}.intermediate.dense",
        "layers.{i}.feed_forward.down": f"{layer}.output.dense",
        "layers.{i}.feed_forward_x_write_norm": f"{layer}.output.LayerNorm",
    }
    for table in tables:
        tensors |= table
    free = {"head.bias": f"{tensors['head']}.bias"}  # where nothing is tied, that beside the decoder is nobody's
    return WeightMap(
        tensors=tensors, passed_over={**PASSED_OVER, **(passed_over or {})}, carried=carried or {}, free=free
    )


def pre_norms(model: str, *, attention: str, feed_forward: str, final: str) -> names.Names:
    """Norms before what sublayers read, named behind the layer, and the last behind the model."""
    return {
        "layers.{i}.attention_norm": f"{model}.{LAYER}.{attention}",
        "layers.{i}.feed_forward_norm": f"{model}.{LAYER}.{feed_forward}",
        "final_norm": f"{model}.{final}",
    }


def head(decoder: str, transform: str, norm: str = "LayerNorm") -> names.Names:
    """A head whose bias files hold beside the decoder, within it, or both."""
    return {
        "head.transform.dense": f"{transform}.dense",
        "head.transform.norm": f"{transform}.{norm}",
        "head": f"{decoder}.decoder",
        "head.bias": (f"{decoder}.bias", f"{decoder}.decoder.bias"),
    }


PREDICTIONS = head("cls.predictions", "cls.predictions.transform")
LM_HEAD = head("lm_head", "lm_head", "layer_norm")
