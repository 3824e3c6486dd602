"""Hunyuan, dense (Tencent): Llama with norms on rotated queries and keys, and an NTK base that stays as it is."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Rope
from nexus_universal.families.shared import common, dense, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=290943, width=4096, inner=11008, depth=32, heads=32, pad=0)
BESIDE_ALPHA = ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""What published configs write beside `alpha`, and the reference reads of no dynamic rotation that has one."""

NORMS: names.Names = {
    "layers.{i}.attention.query_norm": f"{names.LAYER}.self_attn.query_layernorm",
    "layers.{i}.attention.key_norm": f"{names.LAYER}.self_attn.key_layernorm",
}


def rope(reader: ConfigReader) -> Rope:
    """A "dynamic" rotation with an `alpha` is none: its base is θ · α^(d/(d-2)) at any length."""
    section = reader.section("rope_parameters")
    alpha = section.number("alpha", None)
    if not alpha or section.take("rope_type", "default") != "dynamic":
        return rotary.rope(section, context=reader.count("max_position_embeddings", SIZE.context))
    for key in BESIDE_ALPHA:
        section.number(key, None)
    turned = reader.count("head_dim")
    return Rope(theta=section.take("rope_theta", 10000.0) * alpha ** (turned / (turned - 2)))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    return dense.decoder(reader, SIZE, norm, rope=rope(reader), qk_norm=QueryKeyNorm(norm=norm, when="after_rope"))


FAMILY = Family(
    model_type="hunyuan_v1_dense",
    title="Hunyuan (dense)",
    read=read,
    weights=names.weights(NORMS),
    irrelevant={
        "eod_token_id": "speaks of the tokenizer",
        "pretraining_tp": "split products in training; transformers no longer reads it",
    },
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 0},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 8),
        "rope_parameters": (*draws.ROPE, {"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0, "mscale": 1.0}),
        "pad_token_id": (0, None),
    },
)
