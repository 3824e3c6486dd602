"""GLM-4-9B (arXiv 2406.12793) as it was first published, before transformers had a class for it: `glm` by other names.

Its code multiplies queries, keys and values at once, and rounds norms after the weight; transformers' `glm` before it,
and n follows that. ChatGLM2 and ChatGLM3 read alike unless they stretch their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Rope
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family, Reference
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "transformer.encoder.layers.{i}"
BASE, TURNED, OLDER_VOCABULARY = 10000.0, 0.5, 65024
QUERY_KEY_VALUE = Packed(roles=("query", "key", "value"))
ALIASES = {
    "num_layers": "num_hidden_layers",
    "padded_vocab_size": "vocab_size",
    "ffn_hidden_size": "intermediate_size",
    "kv_channels": "head_dim",
    "multi_query_group_num": "num_key_value_heads",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "rms_norm_eps",
    "add_qkv_bias": "attention_bias",
}
FIXED: dict[str, Any] = {
    **dict.fromkeys(("rmsnorm", "post_layer_norm"), True),
    **dict.fromkeys(("apply_residual_connection_post_layernorm", "fp32_residual_connection"), False),
    **dict.fromkeys(("add_bias_linear", "interleaved_qkv", "tie_word_embeddings", "prefix_projection"), False),
    **{"pre_seq_len": None, "quantization_bit": 0},
}
"""Keys with one value in every published config."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=2048, bos=None, eos=None, pad=None)
    embedding = common.embedding(reader, vocab=OLDER_VOCABULARY, width=4096, pad=None)
    norm = common.rms_norm(reader, 1e-5)
    for key, value in FIXED.items():
        reader.inert(key, value)
    ratio = reader.number("rope_ratio", 1.0)
    if ratio != 1 and embedding.vocab == OLDER_VOCABULARY:
        raise reader.refuse("rope_ratio", ratio, "ChatGLM2 divides positions by it, later code multiplies the base")
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=32,
        kv_heads=1,
        head_dim=128,
        rope=Rope(theta=BASE * ratio, fraction=TURNED, pairing="interleaved"),
        biased=common.INPUT_BIASES,
        packing=(QUERY_KEY_VALUE,),
    )
    if not reader.take("multi_query_attention", False):
        packing = replace(QUERY_KEY_VALUE, groups=attention.heads)
        attention = replace(attention, kv_heads=attention.heads, packing=(packing,))
    pair = Packed(roles=("gate", "up"))
    feed_forward = FeedForward(width=reader.count("intermediate_size", 13696), activation="silu", packing=(pair,))
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 28), feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


def as_glm(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same config in the keys of transformers' class."""
    rope = {"rope_type": "default", "rope_theta": BASE * config["rope_ratio"], "partial_rotary_factor": TURNED}
    renamed = {ALIASES.get(key, key): value for key, value in config.items()}
    return renamed | {"rope_parameters": rope, "pad_token_id": None}


HELD = names.weights(names.joined_attention(), names.packed_gated()).tensors
PUBLISHED = {
    "embedding.tokens": "transformer.embedding.word_embeddings",
    "layers.{i}.attention_norm": f"{LAYER}.input_layernorm",
    "layers.{i}.attention.query_key_value": f"{LAYER}.self_attention.query_key_value",
    "layers.{i}.attention.output": f"{LAYER}.self_attention.dense",
    "layers.{i}.feed_forward_norm": f"{LAYER}.post_attention_layernorm",
    "layers.{i}.feed_forward.gate_up": f"{LAYER}.mlp.dense_h_to_4h",
    "layers.{i}.feed_forward.down": f"{LAYER}.mlp.dense_4h_to_h",
    "final_norm": "transformer.encoder.final_layernorm",
    "head": "transformer.output_layer",
}
TINY = {"hidden_size": 48, "num_attention_heads": 4, "kv_channels": 16, "multi_query_attention": True, "rope_ratio": 1}
TINY |= {"add_qkv_bias": True, "layernorm_epsilon": 1e-5}

FAMILY = Family(
    model_type="chatglm",
    title="GLM-4-9B (chatglm)",
    read=read,
    weights=WeightMap(tensors=names.either(PUBLISHED, HELD), passed_over=names.PASSED_OVER),
    aliases=ALIASES,
    irrelevant={
        **dict.fromkeys(("classifier_dropout", "bias_dropout_fusion"), TRAINING),
        "apply_query_key_layer_scaling": "divides scores by a number and multiplies them by it again",
        "attention_softmax_in_fp32": "the fused kernel's softmax is in float32",
        "original_rope": "names an implementation of the same rotation",
    },
    rope="none",
    reference=Reference(model_type="glm", config=as_glm),
    tiny={old: draws.TINY[new] for old, new in ALIASES.items() if new in draws.TINY} | TINY,
    draws={
        "kv_channels": (16, 32),
        "multi_query_group_num": (2, 1, 4),
        "rope_ratio": (1, 500, 0.5),
        "layernorm_epsilon": (1e-5, 1.5625e-7, 1e-3),
        "add_qkv_bias": (True, False),
        "ffn_hidden_size": (80, 48),
        "num_layers": (2, 1, 3),
    },
)
