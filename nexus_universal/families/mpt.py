"""MPT (MosaicML): ALiBi counted from the last key, LayerNorms without bias, projections that may be clipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Alibi
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "transformer.blocks.{i}"
SIZE = Size(context=None, vocab=50368, width=2048, inner=0, depth=24, heads=16, bos=None, eos=None, tied=True)

UNREAD = {"expansion_ratio": (4,), "no_bias": (True,), "logit_scale": (None,)}
UNREAD_OF_ATTENTION = {
    "attn_type": ("multihead_attention",),
    "qk_ln": (False,),
    "prefix_lm": (False,),
    "attn_uses_sequence_id": (False,),
    "alibi": (True,),
    "alibi_bias_max": (8,),
}
"""Keys that transformers does not read, and the value that says what its class does anyway."""

OF_KERNEL = "chooses a kernel of the original code"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    for key, values in UNREAD.items():
        reader.inert(key, *values)
    if reader.values.get("attn_config") is None:
        reader.values["attn_config"] = {}
    said = reader.config("attn_config", irrelevant={"attn_impl": OF_KERNEL, "attn_pdrop": TRAINING})
    said.inert("model_type", "")
    said.irrelevant |= {"dtype": "the model says its own"}
    for key, values in UNREAD_OF_ATTENTION.items():
        said.inert(key, *values)
    clip, scale = said.number("clip_qkv", None) or None, said.number("softmax_scale", None)

    def attention(heads: int, head_dim: int) -> dict[str, Any]:
        return {
            "alibi": Alibi(rounding="none", origin="last", slopes="reciprocals"),
            "kernel": "eager",
            "biases": (),
            "packing": (Packed(roles=("query", "key", "value")),),
            "clip": clip,
            "scale": scale,
        }

    norm = gpt.norm(reader, bias=False)
    n = gpt.decoder(
        reader,
        SIZE,
        norm,
        attention=attention,
        inner=None,
        act=None,
        default_act="gelu",
        biases=(),
        start={"cached": False},
    )
    return replace(n, text=replace(n.text, context=reader.count("max_seq_len", 2048)))


FAMILY = Family(
    model_type="mpt",
    title="MPT",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "norm_1",
                    "attention.query_key_value": "attn.Wqkv",
                    "attention.output": "attn.out_proj",
                    "feed_forward_norm": "norm_2",
                    "feed_forward.up": "ffn.up_proj",
                    "feed_forward.down": "ffn.down_proj",
                },
            ),
            "final_norm": "transformer.norm_f",
            "head": "lm_head",
        },
    ),
    aliases={
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_layers": "num_hidden_layers",
    },
    irrelevant={
        **dict.fromkeys(("resid_pdrop", "emb_pdrop"), TRAINING),
        "embedding_fraction": "scales gradients in the original code",
        "learned_pos_emb": "ALiBi is always there instead: the reference does not read it",
        "norm_type": OF_KERNEL,
        "init_device": "where weights start",
        "init_config": "how weights started",
        "verbose": "what the original code prints",
        "tokenizer_name": "speaks of the tokenizer",
    },
    rope="none",
    tiny={"vocab_size": 97, "d_model": 48, "n_layers": 2, "n_heads": 4, "max_seq_len": 96, "attn_config": {}},
    draws={
        "n_heads": (4, 6, 1, 12, 8),
        "layer_norm_epsilon": (1e-5, 1e-3),
        "attn_config": ({}, {"clip_qkv": 0.5}, {"softmax_scale": 0.3}, {"clip_qkv": 8.0, "softmax_scale": 0.1}),
        "tie_word_embeddings": (True, False),
        "n_layers": (2, 3),
    },
)
