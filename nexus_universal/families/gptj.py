"""GPT-J 6B: parallel blocks with one norm, the first dimensions of each head rotated in pairs, scores in float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Rope
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import draws, gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=2048, vocab=50400, width=4096, inner=0, depth=28, heads=16, bos=50256, eos=50256)


def read(reader: ConfigReader, *, rope: Mapping[str, Any] | None = None, **attention: Any) -> ArchitectureParameter:
    """The n of a config; further fields of the rotation and the attention belong to other families."""
    turned = reader.count("rotary_dim", 64)

    def fields(heads: int, head_dim: int) -> dict[str, Any]:
        reader.require(turned <= head_dim and turned % 2 == 0, "rotary_dim", turned, f"must be even, <= {head_dim}")
        fraction = min(turned / head_dim, 1.0)
        turns = Rope(theta=10000.0, fraction=fraction, pairing="interleaved", over="positions")
        return {"rope": replace(turns, **(rope or {})), "biases": (), "kernel": "eager_wide"} | attention

    order = ("attention", "feed_forward", "x")
    return gpt.decoder(reader, SIZE, gpt.norm(reader), attention=fields, parallel=order, head={"bias": True})


FAMILY = Family(
    model_type="gptj",
    title="GPT-J",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "ln_1",
                    "attention.query": "attn.q_proj",
                    "attention.key": "attn.k_proj",
                    "attention.value": "attn.v_proj",
                    "attention.output": "attn.out_proj",
                    "feed_forward.up": "mlp.fc_in",
                    "feed_forward.down": "mlp.fc_out",
                },
            ),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over={r"\.attn\.(masked_)?bias$": "causal masks are made per call"},
    ),
    aliases=gpt.ALIASES,
    irrelevant=gpt.IRRELEVANT | {"rotary": "says that it rotates, as it always does"},
    rope="none",
    tiny=gpt.TINY | {"n_embd": 64, "rotary_dim": 8},
    draws=draws.without(gpt.DRAWS, "n_head") | {"n_head": (4, 1, 2), "rotary_dim": (8, 16, 4)},
)
