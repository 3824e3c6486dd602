"""GPT-Neo: GPT-2 with scores that are not scaled, in float32, and windows in every second layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import draws, gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=2048, vocab=50257, width=2048, inner=0, depth=24, heads=16, bos=50256, eos=50256, tied=True)
KINDS = ("global", "local")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    window = reader.count("window_size", 256)

    def mixers(attention: Attention, depth: int) -> Iterable[Attention]:
        made = {"global": attention, "local": replace(attention, window=window, keeps="all")}
        return (made[kind] for kind in _kinds(reader, depth))

    return gpt.decoder(
        reader,
        SIZE,
        gpt.norm(reader),
        attention=lambda heads, head_dim: {"scale": 1.0, "biases": ("output",), "kernel": "eager_wide"},
        positions=lambda context: LearnedPositions(count=context),
        mixers=mixers,
        inner="intermediate_size",
    )


def _kinds(reader: ConfigReader, depth: int) -> tuple[str, ...]:
    """The kind of each layer: listed, or as often as `attention_types` says."""
    listed = reader.names("attention_layers", length=depth, known=KINDS)
    types: Any = reader.take("attention_types", None, kinds=(list, type(None)))
    if listed and types is None:
        return listed
    try:
        kinds = tuple(kind for names, times in types or [[KINDS, 12]] for _ in range(times) for kind in names)
    except (TypeError, ValueError):
        raise reader.refuse("attention_types", types, "must be a list of [[kinds], times]") from None
    fits = len(kinds) == depth and set(kinds) <= set(KINDS) and listed in (None, kinds)
    reader.require(fits, "attention_types", types, f"must name 'global' or 'local' for each of {depth} layers")
    return kinds if fits else (KINDS * depth)[:depth]


FAMILY = Family(
    model_type="gpt_neo",
    title="GPT-Neo",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            "embedding.positions": "transformer.wpe",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "ln_1",
                    "attention.query": "attn.attention.q_proj",
                    "attention.key": "attn.attention.k_proj",
                    "attention.value": "attn.attention.v_proj",
                    "attention.output": "attn.attention.out_proj",
                    "feed_forward_norm": "ln_2",
                    "feed_forward.up": "mlp.c_fc",
                    "feed_forward.down": "mlp.c_proj",
                },
            ),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over={r"\.attention\.(masked_)?bias$": "causal masks are made per call"},
    ),
    aliases={"num_heads": "num_attention_heads", "num_layers": "num_hidden_layers"},
    irrelevant=gpt.IRRELEVANT | dict.fromkeys(("resid_dropout", "embed_dropout", "classifier_dropout"), TRAINING),
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "num_layers": 2,
        "num_heads": 4,
        "max_position_embeddings": 96,
        "window_size": 16,
        "attention_types": [[["global", "local"], 1]],
    },
    draws=draws.without(gpt.DRAWS, "n_head", "n_inner", "n_layer")
    | {
        "num_heads": (4, 1, 6),
        "intermediate_size": (None, 56),
        "window_size": (16, 7, 128),
        "attention_types": ([[["global", "local"], 1]], [[["local"], 2]], [[["local"], 1], [["global"], 1]]),
    },
)
