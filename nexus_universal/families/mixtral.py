"""Mixtral (arXiv 2401.04088): experts in every layer, the best two always renormalised."""

from __future__ import annotations

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=131072, bos=1, eos=2, pad=None)
    embedding = common.embedding(reader, vocab=32000, width=4096, pad=text.pad)
    norm = common.rms_norm(reader, 1e-5)
    heads = reader.count("num_attention_heads", 32)
    attention = Attention(
        heads=heads,
        kv_heads=common.kv_heads(reader, heads, 8),
        head_dim=reader.count("head_dim", optional=True) or embedding.width // heads,
        rope=common.rope(reader.section("rope_parameters"), context=text.context),
        window=reader.count("sliding_window", optional=True),
    )
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=FeedForward(width=reader.count("intermediate_size", 14336), activation=common.activation(reader)),
        router=Router(score="softmax", normalise=True),
    )
    layer = sequential_layer(("attention", attention), ("feed_forward", experts), norm=norm)
    return ArchitectureParameter(
        embedding=embedding,
        layers=(layer,) * reader.count("num_hidden_layers", 32),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", False)),
        text=text,
    )


FAMILY = Family(
    model_type="mixtral",
    title="Mixtral",
    read=read,
    weights=WeightMap(
        tensors=names.ends()
        | names.attention()
        | names.pre_norms()
        | names.experts(
            "model.layers.{i}.block_sparse_moe.experts.{e}",
            gate="w1",
            up="w3",
            down="w2",
            published_router="model.layers.{i}.block_sparse_moe.gate",
        ),
        passed_over=names.PASSED_OVER,
    ),
    aliases={"num_experts": "num_local_experts"},
    rope_theta=1000000.0,
    tiny=draws.TINY | {"intermediate_size": 40, "head_dim": 12, "num_local_experts": 6},
    draws={key: values for key, values in draws.DENSE.items() if key != "attention_bias"}
    | {
        "head_dim": (12, 16),
        "num_local_experts": (6, 3),
        "num_experts_per_tok": (2, 1, 3),
        "sliding_window": (None, 7, 24),
    },
)
