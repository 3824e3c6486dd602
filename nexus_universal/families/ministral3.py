"""Ministral 3 (Mistral AI): Mistral with YaRN and queries that grow with their position."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import QueryTemperature
from nexus_universal.families.shared import common, dense, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=262144,
    vocab=131072,
    width=4096,
    inner=14336,
    depth=34,
    heads=32,
    kv_heads=8,
    head_dim=128,
    pad=11,
)
GROWTH = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    section = reader.section("rope_parameters")
    growth, temperature = section.number("llama_4_scaling_beta", None), None
    if growth is not None:
        temperature = QueryTemperature(growth=growth, span=section.count("original_max_position_embeddings"))
    section.take("max_position_embeddings", None)  # beside the model's own, which is what is read
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        rope=rotary.rope(section, context=reader.count("max_position_embeddings", SIZE.context)),
        biases=(),
        window=reader.count("sliding_window", None, optional=True),
        temperature=temperature,
    )


FAMILY = Family(
    model_type="ministral3",
    title="Ministral 3",
    read=read,
    weights=names.weights(),
    rope_theta=1000000.0,
    rope_default={
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale_all_dim": 1.0,
        "mscale": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 11, "rope_parameters": {**draws.ROPE[0], **GROWTH}},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (16, 8),
        "rope_parameters": (
            *({**GROWTH, **rope} for rope in draws.ROPE),
            {**draws.ROPE[1], **GROWTH, "llama_4_scaling_beta": 0.5},
        ),
        "sliding_window": (None, 16, 7, 128),
        "pad_token_id": (11, None),
    },
)
