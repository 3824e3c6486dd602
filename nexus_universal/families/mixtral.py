"""Mixtral (arXiv 2401.04088): experts in every layer, the best two always renormalised."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=32000, width=4096, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-5)
    window = reader.count("sliding_window", optional=True)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, biases=(), window=window)
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=common.feed_forward(reader, 14336),
        router=Router(score="softmax", normalise=True),
    )
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 32), experts, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="mixtral",
    title="Mixtral",
    read=read,
    weights=names.weights(
        names.experts(
            "model.layers.{i}.block_sparse_moe.experts.{e}",
            gate="w1",
            up="w3",
            down="w2",
            published_router="model.layers.{i}.block_sparse_moe.gate",
        )
    ),
    aliases={"num_experts": "num_local_experts"},
    rope_theta=1000000.0,
    tiny=draws.TINY | {"intermediate_size": 40, "head_dim": 12, "num_local_experts": 6},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (12, 16),
        "num_local_experts": (6, 3),
        "num_experts_per_tok": (2, 1, 3),
        "sliding_window": (None, 7, 24),
    },
)
