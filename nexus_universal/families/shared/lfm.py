"""What Liquid's models share: a short convolution beside attention, and the names of their tensors."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.recurrences import ShortConvolution
from nexus_universal.checkpoint.rules import Squeezed
from nexus_universal.families.shared import draws
from nexus_universal.families.shared.names import LAYER, Names
from nexus_universal.families.shared.reader import ConfigReader

ALIASES = {"tie_embedding": "tie_word_embeddings"}
TINY: dict[str, Any] = {"layer_types": ["conv", "full_attention"]}
DRAWS: dict[str, tuple[Any, ...]] = draws.without(draws.DENSE, "rms_norm_eps", "hidden_act", "attention_bias") | {
    "norm_eps": (1e-5, 1e-3),
    "conv_bias": (False, True),
    "conv_L_cache": (3, 4),
    "tie_word_embeddings": (True, False),
    "pad_token_id": (0, None),
}


def convolution(reader: ConfigReader, kernel: int) -> ShortConvolution:
    """The short convolution of a config."""
    return ShortConvolution(kernel=reader.count("conv_L_cache", kernel), bias=reader.take("conv_bias", False))


def tensors(ours: str = "layers.{i}.short_convolution", conv: str = f"{LAYER}.conv") -> Names:
    """Convolutions, feed-forwards and norms."""
    return {
        f"{ours}.input": f"{conv}.in_proj",
        f"{ours}.convolution.weight": Squeezed(f"{conv}.conv.weight", axis=1),
        f"{ours}.convolution.bias": f"{conv}.conv.bias",
        f"{ours}.output": f"{conv}.out_proj",
        f"{ours}_norm": f"{LAYER}.operator_norm",
        "layers.{i}.attention_norm": f"{LAYER}.operator_norm",
        "layers.{i}.feed_forward_norm": f"{LAYER}.ffn_norm",
        "layers.{i}.feed_forward.gate": f"{LAYER}.feed_forward.w1",
        "layers.{i}.feed_forward.up": f"{LAYER}.feed_forward.w3",
        "layers.{i}.feed_forward.down": f"{LAYER}.feed_forward.w2",
        "final_norm": "model.embedding_norm",
    }


def attention_names(layer: str = f"{LAYER}.self_attn") -> Names:
    """LFM2's attention."""
    return {
        "layers.{i}.attention.output": f"{layer}.out_proj",
        "layers.{i}.attention.query_norm": f"{layer}.q_layernorm",
        "layers.{i}.attention.key_norm": f"{layer}.k_layernorm",
    }
