"""Mellum 2 (JetBrains): Qwen3-MoE with windowed layers, each kind of layer with a rotation of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=131072,
    vocab=98304,
    width=2304,
    inner=7168,
    depth=28,
    heads=32,
    kv_heads=4,
    head_dim=128,
    bos=None,
    eos=None,
)
KINDS = ("full_attention", "sliding_attention")
ROPE: dict[str, Any] = {
    "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6)
    ropes, context = reader.section("rope_parameters"), reader.count("max_position_embeddings", SIZE.context)
    full, local = (rotary.rope(ropes.section(kind), context=context, nested=True) for kind in KINDS)

    def mixers(attention: Attention, depth: int) -> Iterable[Attention]:
        window = reader.count("sliding_window", 1024, optional=True)
        kinds = common.layer_types(reader, depth, full_until=depth)
        return common.windowed_by(kinds, attention, window, reader, needs="needs a sliding_window", rope=local)

    def feed_forwards(plain: FeedForward, depth: int) -> Iterable[FeedForward | MixtureOfExperts]:
        expert = replace(plain, width=reader.count("moe_intermediate_size", 896))
        experts = common.softmax_experts(reader, expert, count=64, chosen=8, normalise=True)
        return common.dense_or_sparse(reader, depth, plain, experts, dense_layers=0)

    qk_norm = QueryKeyNorm(norm=norm)
    return dense.decoder(reader, SIZE, norm, rope=full, mixers=mixers, feed_forwards=feed_forwards, qk_norm=qk_norm)


FAMILY = Family(
    model_type="mellum",
    title="Mellum 2",
    read=read,
    weights=names.weights(names.experts(), passed_over={r"^mtp\.": "multi-token prediction"}),
    aliases={"num_local_experts": "num_experts"},
    irrelevant=dict.fromkeys(
        ("num_mtp_layers", "num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types"),
        "speaks of multi-token prediction layers, which are passed over",
    ),
    rope="none",  # older spellings than one section per kind of layer are none of this type's
    rope_default=ROPE,
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 3, "sliding_window": 16, "layer_types": [*KINDS, KINDS[1]]},
    draws=draws.without(draws.DENSE | draws.EXPERTS, "decoder_sparse_step", "mlp_only_layers")
    | {
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": ([*KINDS, KINDS[1]], None, [KINDS[1], *KINDS]),
        "mlp_layer_types": (None, ["dense", "sparse", "sparse"]),
        "rope_parameters": (
            None,
            *(
                {KINDS[0]: {"rope_theta": 500.0, **scaling}, KINDS[1]: {"rope_type": "default", "rope_theta": 100.0}}
                for scaling in draws.ROPE_SCALING
                if scaling and draws.PER_PAIR not in scaling.values()
            ),
        ),
    },
)
