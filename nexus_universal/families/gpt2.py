"""GPT-2: learned positions, LayerNorm with bias, one fused projection stored [in, out] (Conv1D)."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.position import LearnedPositions
from nexus_universal.checkpoint.rules import Transposed, WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=1024, vocab=50257, width=768, inner=0, depth=12, heads=12, bos=50256, eos=50256, tied=True)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    scale = None if reader.take("scale_attn_weights", True) else 1.0
    by_layer = reader.take("scale_attn_by_inverse_layer_idx", False)

    def attention(heads: int, head_dim: int) -> dict[str, Any]:
        divided = ByLayer(rule="divide", value=scale or head_dim**-0.5)
        return {"scale": divided if by_layer else scale, "packing": (Packed(roles=("query", "key", "value")),)}

    return gpt.decoder(
        reader,
        SIZE,
        gpt.norm(reader),
        attention=attention,
        positions=lambda context: LearnedPositions(count=context),
        start={"scaled_residual": True},
    )


FAMILY = Family(
    model_type="gpt2",
    title="GPT-2",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            "embedding.positions": "transformer.wpe",
            "layers.{i}.attention_norm": f"{LAYER}.ln_1",
            "layers.{i}.attention.query_key_value": Transposed(f"{LAYER}.attn.c_attn"),
            "layers.{i}.attention.output": Transposed(f"{LAYER}.attn.c_proj"),
            "layers.{i}.feed_forward_norm": f"{LAYER}.ln_2",
            "layers.{i}.feed_forward.up": Transposed(f"{LAYER}.mlp.c_fc"),
            "layers.{i}.feed_forward.down": Transposed(f"{LAYER}.mlp.c_proj"),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over={r"\.attn\.(masked_)?bias$": "causal masks are made per call"},
        optional_prefix="transformer.",
    ),
    aliases=gpt.ALIASES,
    irrelevant=gpt.IRRELEVANT | {"reorder_and_upcast_attn": "takes effect in the eager form of attention only"},
    rope="none",
    tiny=gpt.TINY,
    draws=gpt.DRAWS
    | {
        "scale_attn_weights": (True, False),
        "scale_attn_by_inverse_layer_idx": (False, True),
    },
)
