"""Qwen3.5 with experts in every layer."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import qwen3_5_text as qwen3_5
from nexus_universal.families.shared import common, delta, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=248320, width=2048)
    norm, act = delta.norm(reader), common.activation(reader)
    mixers = {
        "full_attention": delta.attention(reader, text, embedding.width, norm=norm, kv_heads=2),
        "linear_attention": delta.delta_rule(reader, eps=norm.eps, act=act, packing=qwen3_5.PACKING),
    }
    experts = delta.experts(reader, act, count=256, chosen=8, normalise=True)
    made = {kind: delta.layer(kind, mixers, experts, norm) for kind in mixers}
    kinds = common.layer_types(reader, reader.count("num_hidden_layers", 40), **delta.PATTERN)
    delta.inert(reader)
    return common.decoder(reader, text, embedding, (made[kind] for kind in kinds), norm)


FAMILY = Family(
    model_type="qwen3_5_moe_text",
    title="Qwen3.5 (experts)",
    read=read,
    weights=names.weights(names.experts(), qwen3_5.TENSORS, passed_over=delta.PASSED_OVER),
    irrelevant=qwen3_5.IRRELEVANT,
    partial_rotary_factor=0.25,
    tiny=draws.without(draws.TINY, "intermediate_size")
    | draws.TINY_EXPERTS
    | delta.TINY
    | {"shared_expert_intermediate_size": 20},
    draws=draws.DENSE
    | draws.without(draws.EXPERTS, "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")
    | delta.DRAWS
    | {"shared_expert_intermediate_size": (20, 32)},
)
