"""Qwen-7B and its kin of 2023 (arXiv 2309.16609): `qwen2` by other names, up to the length it was trained on.

Beyond it the rotation's base grows in steps, and queries with the logarithm of their position. `w2` is the gate,
`intermediate_size` counts gate and up together, and the rotation is computed in float32 in a model of any dtype.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, Rope, SteppedScaling
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, names
from nexus_universal.families.shared.family import Family, Reference
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "transformer.h.{i}"
OFF = ("softmax_in_fp32", "use_cache_quantization", "use_cache_kernel", "apply_residual_connection_post_layernorm")
FIXED = {**dict.fromkeys(OFF, False), "scale_attn_weights": True, "pos_emb": "rotary", "n_inner": None}
"""Keys with one value in every published config."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=8192, bos=None, eos=None, pad=None)
    embedding = common.embedding(reader, vocab=151936, width=4096, pad=None)
    norm = Norm(kind="rms", eps=reader.take("layer_norm_epsilon", 1e-6))
    for key, value in FIXED.items():
        reader.inert(key, value)
    heads, head_dim = reader.count("num_attention_heads", 32), reader.count("kv_channels", 128)
    reader.require(heads * head_dim == embedding.width, "kv_channels", head_dim, f"must be {embedding.width} / {heads}")
    trained = reader.count("seq_length", 8192)
    biased = not reader.take("no_bias", True)
    rope = Rope(
        theta=reader.number("rotary_emb_base", 10000.0),
        fraction=reader.take("rotary_pct", 1.0),
        scaling=SteppedScaling(context=trained) if reader.take("use_dynamic_ntk", True) else None,
        table="float32",
        product="float32",
    )
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        rope=rope,
        biases=common.ALL_BIASES if biased else common.INPUT_BIASES,
        packing=(Packed(roles=("query", "key", "value")),),
        log_scale=trained if reader.take("use_logn_attn", True) else None,
    )
    width = reader.count("intermediate_size", 22016) // 2
    feed_forward = FeedForward(width=width, activation="silu", biases=("gate", "up", "down") if biased else ())
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 32), feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


def as_qwen2(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config in the keys of transformers' class, for calls no longer than `seq_length`."""
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "tie_word_embeddings")
    return {key: config[key] for key in same} | {
        "num_key_value_heads": config["num_attention_heads"],
        "intermediate_size": config["intermediate_size"] // 2,
        "rms_norm_eps": config["layer_norm_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": float(config["rotary_emb_base"])},
    }


PUBLISHED = {
    "embedding.tokens": "transformer.wte",
    "layers.{i}.attention_norm": f"{LAYER}.ln_1",
    "layers.{i}.attention.query_key_value": f"{LAYER}.attn.c_attn",
    "layers.{i}.attention.output": f"{LAYER}.attn.c_proj",
    "layers.{i}.feed_forward_norm": f"{LAYER}.ln_2",
    "layers.{i}.feed_forward.gate": f"{LAYER}.mlp.w2",
    "layers.{i}.feed_forward.up": f"{LAYER}.mlp.w1",
    "layers.{i}.feed_forward.down": f"{LAYER}.mlp.c_proj",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}
FLAGS = ("bf16", "fp16", "fp32", "use_flash_attn", "params_dtype", "onnx_safe", "tokenizer_type")
DROPOUTS = ("emb_dropout_prob", "attn_dropout_prob", "embd_pdrop", "attn_pdrop", "resid_pdrop", "bias_dropout_fusion")
TINY = {"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "kv_channels": 12}
TINY |= {"intermediate_size": 160, "seq_length": 128, "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000}
FAMILY = Family(
    model_type="qwen",
    title="Qwen 1",
    read=read,
    weights=WeightMap(
        tensors=names.either(PUBLISHED, names.weights(names.joined_attention()).tensors),
        passed_over=names.PASSED_OVER | {r"\.attn\.(masked_)?bias$": "causal masks are made per call"},
    ),
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "ffn_hidden_size": "intermediate_size",
        "padded_vocab_size": "vocab_size",
    },
    irrelevant={
        **dict.fromkeys(DROPOUTS, TRAINING),
        **dict.fromkeys(FLAGS, "chooses a dtype, a kernel or a tokenizer"),
    },
    rope="none",
    reference=Reference(model_type="qwen2", config=as_qwen2, rounds_alike=False),
    tiny=TINY | {"tie_word_embeddings": False},
    draws={
        "num_hidden_layers": (2, 1, 3),
        "intermediate_size": (160, 96),
        "seq_length": (128, 96),
        "layer_norm_epsilon": (1e-6, 1e-3),
        "rotary_emb_base": (10000, 500.0),
        "use_dynamic_ntk": (True, False),
        "use_logn_attn": (True, False),
        "tie_word_embeddings": (False, True),
    },
)
