"""GPT-NeoX Japanese: GPT-NeoX in sequence and without biases, but for one behind the last attention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct, WeightMap
from nexus_universal.families.shared import draws, gpt, names, rotary
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "gpt_neox_japanese.layers.{i}"
SIZE = Size(context=2048, vocab=32000, width=2560, inner=0, depth=32, heads=32, bos=31996, eos=31999, tied=True)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width, context = reader.count("hidden_size", SIZE.width), reader.count("max_position_embeddings", SIZE.context)
    rope = rotary.rope(reader.section("rope_parameters"), context=context, takes_fraction=True)

    def attention(heads: int, head_dim: int) -> dict[str, Any]:
        reader.inert("head_dim", None, head_dim)
        packing = (Packed(roles=("query", "key", "value"), groups=heads),)
        return {"rope": rope, "biases": (), "kernel": "eager_fused_rounded", "packing": packing}

    def mixers(plain: Attention, depth: int) -> Iterable[Attention]:
        return (*[plain] * (depth - 1), replace(plain, biases=("output",), late_bias=True))

    return gpt.decoder(
        reader,
        SIZE,
        gpt.norm(reader, key="layer_norm_eps"),
        attention=attention,
        mixers=mixers,
        inner=width * reader.count("intermediate_multiple_size", 4),
        act="hidden_act",
        default_act="gelu",
        biases=(),
    )


FAMILY = Family(
    model_type="gpt_neox_japanese",
    title="GPT-NeoX Japanese",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "gpt_neox_japanese.embed_in",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "input_layernorm",
                    "attention.query_key_value": "attention.query_key_value",
                    "attention.output": "attention.dense",
                    "feed_forward_norm": "post_attention_layernorm",
                    "feed_forward.up": "mlp.dense_h_to_4h",
                    "feed_forward.down": "mlp.dense_4h_to_h",
                },
            ),
            "layers.{i}.attention.output.bias": Direct(f"{LAYER}.attention.dense_bias"),
            "final_norm": "gpt_neox_japanese.final_layer_norm",
            "head": "embed_out",
        },
        passed_over=names.PASSED_OVER | {r"\.attention\.(masked_)?bias$": "causal masks are made per call"},
    ),
    aliases={"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    partial_rotary_factor=1.0,
    tiny=draws.without(draws.TINY, "num_key_value_heads", "intermediate_size") | {"hidden_size": 64},
    draws={
        "rope_parameters": tuple(rope for rope in draws.ROPE if rope["rope_type"] != "proportional"),
        "tie_word_embeddings": (True, False),
        "num_attention_heads": (4, 2, 1),
        "rotary_pct": (1.0, 0.25, 0.5),
        "intermediate_multiple_size": (4, 2),
        "hidden_act": ("gelu", "relu", "gelu_new"),
        "layer_norm_eps": (1e-5, 1e-3),
        "num_hidden_layers": (2, 3, 1),
    },
)
