"""GLM-4.5, 4.6 and 4.7 (arXiv 2508.06471): half a head rotated, dense first layers, then sigmoid-routed experts."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=151552, width=4096)
    norm = common.rms_norm(reader, 1e-5)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=96,
        kv_heads=8,
        rope=rotary.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True),
        biased=common.INPUT_BIASES,
        qk_norm=QueryKeyNorm(norm=norm) if reader.take("use_qk_norm", False) else None,
    )
    dense = common.feed_forward(reader, 10944)
    router = deepseek.sigmoid_router(reader, scale=1.0)
    experts = deepseek.experts(reader, dense, router, count=128, chosen=8, width=1408)
    feed_forwards = deepseek.dense_first(reader, dense, experts, layers=46, dense_layers=1)
    layers = common.sequential([attention] * len(feed_forwards), feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="glm4_moe",
    title="GLM-4.5, GLM-4.6, GLM-4.7",
    read=read,
    weights=names.weights(names.experts(), names.shared_experts(), passed_over=names.MULTI_TOKEN_PREDICTION),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT,
    partial_rotary_factor=0.5,
    completes={"head_dim": 128},  # half of 4096 // 96 dimensions would be 21, which do not pair
    tiny=draws.TINY | draws.TINY_ROUTED | {"head_dim": 16},
    draws=draws.DENSE
    | draws.ROUTED
    | {
        "head_dim": (16, 8),
        "use_qk_norm": (False, True),
        "partial_rotary_factor": (0.5, 0.75, 1.0),
        "first_k_dense_replace": (1, 2, 0),
    },
)
