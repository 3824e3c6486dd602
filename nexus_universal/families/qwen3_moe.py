"""Qwen3-MoE (arXiv 2505.09388): Qwen3's attention, with softmax-routed experts in most layers."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

UNREAD = {"qkv_bias": False, "use_qk_norm": True, "shared_expert_intermediate_size": 0}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=2048)
    norm = common.rms_norm(reader, 1e-6)
    window = common.window_if_used(reader)
    for key, value in UNREAD.items():
        reader.inert(key, value)
    attention = common.attention(
        reader, text, embedding.width, heads=32, kv_heads=4, qk_norm=QueryKeyNorm(norm=norm), window=window
    )
    dense = common.feed_forward(reader, 6144)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 128),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 768), activation=dense.activation),
        router=Router(score="softmax", normalise=reader.take("norm_topk_prob", False), weights="model"),
    )
    sparse = common.sparse_layers(reader, reader.count("num_hidden_layers", 24))
    feed_forwards = [experts if is_sparse else dense for is_sparse in sparse]
    layers = common.sequential([attention] * len(sparse), feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="qwen3_moe",
    title="Qwen3-MoE, Qwen3-Coder",
    read=read,
    weights=names.weights(names.experts()),
    aliases={"num_local_experts": "num_experts"},
    irrelevant={"max_window_layers": "this family's windows are in all layers or in none"},
    tiny=draws.TINY | draws.TINY_EXPERTS | {"norm_topk_prob": True},
    draws=draws.DENSE
    | draws.EXPERTS
    | {"head_dim": (16, 8), "use_sliding_window": (False, True), "sliding_window": (7, 24)},
)
