"""GPT-BigCode, SantaCoder and StarCoder (arXiv 2301.03988, 2305.06161): GPT-2 with one key/value head."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=1024, vocab=50257, width=768, inner=0, depth=12, heads=12, bos=50256, eos=50256, tied=True)
OF_EAGER = "takes effect in the eager form of attention only"
OLD = "an old key that the reference does not read"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    single = reader.take("multi_query", True)
    scale = None if reader.take("scale_attn_weights", True) else 1.0

    def attention(heads: int, head_dim: int) -> dict[str, Any]:
        shared = 1 if single else heads
        reader.inert("num_key_value_heads", shared)
        reader.inert("num_kv_heads", None, shared)
        packing = (Packed(roles=("query", "key", "value"), groups=shared),)
        return {"kv_heads": shared, "scale": scale, "packing": packing}

    return gpt.decoder(
        reader,
        SIZE,
        gpt.norm(reader),
        attention=attention,
        positions=lambda context: LearnedPositions(count=context),
        default_act="gelu_pytorch_tanh",
        start={"scaled_residual": True},
    )


FAMILY = Family(
    model_type="gpt_bigcode",
    title="SantaCoder, StarCoder",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            "embedding.positions": "transformer.wpe",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "ln_1",
                    "attention.query_key_value": "attn.c_attn",
                    "attention.output": "attn.c_proj",
                    "feed_forward_norm": "ln_2",
                    "feed_forward.up": "mlp.c_fc",
                    "feed_forward.down": "mlp.c_proj",
                },
            ),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over={r"^transformer\.bias$": "causal masks are made per call"},
    ),
    aliases=gpt.ALIASES,
    irrelevant=gpt.IRRELEVANT
    | dict.fromkeys(("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"), OF_EAGER)
    | dict.fromkeys(("inference_runner", "validate_runner_input", "pre_allocate_kv_cache", "max_batch_size"), OLD)
    | dict.fromkeys(("max_sequence_length", "pad_key_length", "attention_head_type"), OLD),
    rope="none",
    tiny=gpt.TINY,
    draws=gpt.DRAWS
    | {
        "multi_query": (True, False),
        "scale_attn_weights": (True, True, False),
        "activation_function": ("gelu_pytorch_tanh", "gelu", "relu"),
    },
)
