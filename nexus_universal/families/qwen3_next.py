"""Qwen3-Next: three gated delta layers to one of gated attention, experts with a gated shared one."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, delta, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=2048)
    norm, dense, groups = delta.norm(reader), common.feed_forward(reader, 5632), delta.key_heads(reader)
    packing = (
        Packed(roles=("query", "key", "value", "gate"), groups=groups),
        Packed(roles=("beta", "decay"), groups=groups),
    )
    mixers = {
        "full_attention": delta.attention(reader, text, embedding.width, norm=norm, kv_heads=2),
        "linear_attention": delta.delta_rule(reader, eps=norm.eps, act=common.activation(reader), packing=packing),
    }
    normalise = reader.take("norm_topk_prob", True)
    experts = delta.experts(reader, common.activation(reader), count=512, chosen=10, normalise=normalise)
    depth = reader.count("num_hidden_layers", 48)
    kinds, sparse = common.layer_types(reader, depth, **delta.PATTERN), common.sparse_layers(reader, depth)
    made = {
        (kind, is_sparse): delta.layer(kind, mixers, experts if is_sparse else dense, norm)
        for kind in mixers
        for is_sparse in (False, True)
    }
    return common.decoder(reader, text, embedding, (made[each] for each in zip(kinds, sparse, strict=True)), norm)


FAMILY = Family(
    model_type="qwen3_next",
    title="Qwen3-Next, Qwen3-Coder-Next",
    read=read,
    weights=names.weights(names.experts(), names.gated_delta(), delta.NAMES, passed_over=delta.PASSED_OVER),
    partial_rotary_factor=0.25,
    tiny=draws.TINY | draws.TINY_EXPERTS | delta.TINY | {"shared_expert_intermediate_size": 20},
    draws=draws.DENSE | draws.EXPERTS | delta.DRAWS | {"shared_expert_intermediate_size": (20, 32)},
)
