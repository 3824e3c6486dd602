"""Flint (Recursive): sinks beside float32 scores, rotation in windows only, sigmoid-routed experts and a shared one."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "full_attention", "sliding_attention"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=262144, vocab=150144, width=2048)
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale")
    sliding = common.attention(
        reader,
        text,
        embedding.width,
        heads=32,
        kv_heads=4,
        head_dim=128,
        window=reader.count("sliding_window", 513),
        qk_norm=QueryKeyNorm(norm=norm),
        sinks=True,
        kernel="eager_wide_sinks",
    )
    mixers = {SLIDING: sliding, FULL: replace(sliding, rope=None, window=None)}
    depth = reader.count("num_hidden_layers", 49)
    derived = [KINDS[i >= 2 and i % 4 != 1 and i != depth - 1] for i in range(depth)]
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    dense = common.feed_forward(reader, 6144)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 256),
        per_token=reader.count("num_experts_per_tok", 6),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 512), activation=dense.activation),
        router=Router(
            score="sigmoid", normalise=reader.take("norm_topk_prob", True), logits="float32", stored="float32"
        ),
        shared=replace(dense, width=reader.count("shared_expert_intermediate_size", 1024)),
    )
    if reader.values.get("mlp_only_layers") is None:
        reader.values["mlp_only_layers"] = [0, 1][:depth]
    reader.indices("mlp_only_layers", length=depth)
    sparse = common.sparse_layers(reader, depth)
    feed_forwards = [experts if is_sparse else dense for is_sparse in sparse]
    layers = common.sequential([mixers[kind] for kind in kinds], feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="flint",
    title="Flint",
    read=read,
    weights=names.weights(
        names.experts(),
        names.shared_experts(f"{names.LAYER}.mlp.shared_expert"),
        {
            "layers.{i}.attention.sinks": tuple(
                Direct(f"{names.LAYER}.self_attn.{name}") for name in ("softmax_offset", "sinks")
            )
        },
    ),
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 4, "sliding_window": 16, "mlp_only_layers": [0]}
    | {"shared_expert_intermediate_size": 32},
    draws=draws.DENSE
    | draws.EXPERTS
    | {
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, [SLIDING, FULL, SLIDING, SLIDING]),
        "mlp_only_layers": ([0], None, []),
        "shared_expert_intermediate_size": (32, 24),
    },
)
