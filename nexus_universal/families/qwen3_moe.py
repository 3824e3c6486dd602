"""Qwen3-MoE (arXiv 2505.09388): Qwen3's attention, with softmax-routed experts in most layers."""

from __future__ import annotations

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=32768, bos=None, eos=None, pad=None)
    embedding = common.embedding(reader, vocab=151936, width=2048, pad=text.pad)
    norm = common.rms_norm(reader, 1e-6)
    heads = reader.count("num_attention_heads", 32)
    attention = Attention(
        heads=heads,
        kv_heads=common.kv_heads(reader, heads, 4),
        head_dim=reader.count("head_dim", optional=True) or embedding.width // heads,
        rope=common.rope(reader.section("rope_parameters"), context=text.context),
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
        qk_norm=QueryKeyNorm(norm=norm),
        window=common.window_if_used(reader),
    )
    act = common.activation(reader)
    dense = FeedForward(width=reader.count("intermediate_size", 6144), activation=act)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 128),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 768), activation=act),
        router=Router(score="softmax", normalise=reader.take("norm_topk_prob", False), weights="model"),
    )
    sparse = common.sparse_layers(reader, reader.count("num_hidden_layers", 24))
    layers = [sequential_layer(("attention", attention), ("feed_forward", f), norm=norm) for f in (dense, experts)]
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers[is_sparse] for is_sparse in sparse),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", False)),
        text=text,
    )


FAMILY = Family(
    model_type="qwen3_moe",
    title="Qwen3-MoE, Qwen3-Coder",
    read=read,
    weights=WeightMap(
        tensors=names.ends() | names.attention() | names.gated() | names.experts() | names.pre_norms(),
        passed_over=names.PASSED_OVER,
    ),
    aliases={"num_local_experts": "num_experts"},
    irrelevant={"max_window_layers": "this family's windows are in all layers or in none"},
    tiny=draws.TINY | draws.TINY_EXPERTS | {"norm_topk_prob": True},
    draws=draws.DENSE
    | draws.EXPERTS
    | {"head_dim": (16, 8), "use_sliding_window": (False, True), "sliding_window": (7, 24)},
)
