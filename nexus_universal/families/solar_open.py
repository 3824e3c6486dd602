"""Solar Open (Upstage): GLM-4.5's experts in every layer, behind Llama's attention."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=196608, width=4096)
    norm = common.rms_norm(reader, 1e-5)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=64,
        kv_heads=8,
        head_dim=128,
        biased=common.INPUT_BIASES,
    )
    plain = FeedForward(width=1, activation=common.activation(reader))
    router = deepseek.sigmoid_router(reader, scale=1.0)
    experts = deepseek.experts(reader, plain, router, count=128, chosen=8, width=1280)
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 48), experts, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="solar_open",
    title="Solar Open",
    read=read,
    weights=names.weights(names.experts(), names.shared_experts(), passed_over=names.MULTI_TOKEN_PREDICTION),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT
    | dict.fromkeys(("intermediate_size", "first_k_dense_replace"), "speaks of dense layers, of which there are none"),
    rope_theta=1000000.0,
    tiny=draws.without(draws.TINY, "intermediate_size") | draws.TINY_ROUTED | {"head_dim": 16},
    draws=draws.DENSE | draws.ROUTED | {"head_dim": (16, 8)},
)
