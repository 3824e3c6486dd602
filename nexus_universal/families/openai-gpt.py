"""GPT (Radford et al., 2018): learned positions, norms after each sum, none before the head; no cache."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions
from nexus_universal.checkpoint.rules import Transposed, WeightMap
from nexus_universal.families.shared import draws, gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=512, vocab=40478, width=768, inner=0, depth=12, heads=12, bos=None, eos=None, tied=True)
ACTIVATIONS = {"relu": "relu", "silu": "silu", "swish": "silu", "gelu": "gelu_new"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return gpt.decoder(
        reader,
        SIZE,
        gpt.norm(reader),
        attention=lambda heads, head_dim: {
            "kernel": "eager_divided",
            "packing": (Packed(roles=("query", "key", "value")),),
        },
        positions=lambda context: LearnedPositions(count=context),
        inner=None,
        act="afn",
        default_act="gelu",
        known=ACTIVATIONS,
        normed="after",
    )


FAMILY = Family(
    model_type="openai-gpt",
    title="GPT",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.tokens_embed",
            "embedding.positions": "transformer.positions_embed",
            "layers.{i}.attention_x_write_norm": f"{LAYER}.ln_1",
            "layers.{i}.attention.query_key_value": Transposed(f"{LAYER}.attn.c_attn"),
            "layers.{i}.attention.output": Transposed(f"{LAYER}.attn.c_proj"),
            "layers.{i}.feed_forward_x_write_norm": f"{LAYER}.ln_2",
            "layers.{i}.feed_forward.up": Transposed(f"{LAYER}.mlp.c_fc"),
            "layers.{i}.feed_forward.down": Transposed(f"{LAYER}.mlp.c_proj"),
            "head": "lm_head",
        },
        passed_over={r"\.attn\.bias$": "causal masks are made per call", r"position_ids$": "0, 1, 2 …"},
        optional_prefix="transformer.",
    ),
    aliases=gpt.ALIASES,
    irrelevant=gpt.IRRELEVANT | {"predict_special_tokens": "speaks of the tokenizer"},
    rope="none",
    tiny=gpt.TINY,
    draws=draws.without(gpt.DRAWS, "activation_function", "n_inner") | {"afn": ("gelu", "relu", "silu")},
)
