"""ERNIE 4.5 with experts (Baidu): the dense one's attention, a biased softmax chooses, and the router is float32."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Squeezed
from nexus_universal.families import ernie4_5
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = replace(ernie4_5.SIZE, width=2560, inner=12288, depth=28, heads=20, kv_heads=4, head_dim=None)
MLP = f"{names.LAYER}.mlp"


def feed_forwards(reader: ConfigReader, plain: FeedForward, depth: int) -> Iterable[FeedForward | MixtureOfExperts]:
    """Experts in every `moe_layer_interval`-th layer from one index to another, the last being -1."""
    width, shared = reader.count("moe_intermediate_size", 1536), reader.take("moe_num_shared_experts", 2)
    reader.require(shared >= 0, "moe_num_shared_experts", shared, "must not be negative")
    experts = MixtureOfExperts(
        experts=reader.count("moe_num_experts", 64),
        per_token=reader.count("moe_k", 6),
        expert=FeedForward(width=width, activation=plain.activation),
        router=Router(
            score="softmax",
            normalise=True,
            selection_bias=True,
            sum_floor=reader.number("moe_norm_min", 1e-12),
            logits="float32",
            weights="rounded",
            stored="float32",
        ),
        shared=replace(plain, width=width * shared) if shared else None,
        shared_call="first" if shared else "last",
    )
    first, last = reader.take("moe_layer_start_index", 1), reader.take("moe_layer_end_index", -1)
    every, last = reader.count("moe_layer_interval", 1), depth - 1 if last == -1 else last
    return [experts if first <= i <= last and (i + 1) % every == 0 else plain for i in range(depth)]


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    biased = reader.take("use_bias", False)
    reader.inert("moe_gate", "topk")
    reader.inert("moe_use_aux_free", True)
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        rope=ernie4_5.ROTATION,
        feed_forward=dense.gated_biases(reader, "use_bias"),
        feed_forwards=lambda plain, depth: feed_forwards(reader, plain, depth),
        biases=common.ALL_BIASES if biased else (),
        head={"bias": biased},
    )


FAMILY = Family(
    model_type="ernie4_5_moe",
    title="ERNIE 4.5 (experts)",
    read=read,
    weights=names.weights(
        names.experts(
            selection_bias=tuple(
                Squeezed(f"{module}.moe_statics.e_score_correction_bias", axis=0) for module in (MLP, f"{MLP}.gate")
            )
        ),
        names.shared_experts(),
        passed_over={r"(^|\.)mtp": "multi-token prediction"},
    ),
    aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    irrelevant={
        "moe_capacity": "bounds how many tokens an expert takes in training",
        "num_nextn_predict_layers": "counts multi-token prediction layers, which are passed over",
    },
    rope_theta=500000.0,
    tiny=draws.TINY
    | {"num_hidden_layers": 3, "moe_intermediate_size": 24, "moe_num_experts": 8, "moe_k": 3, "pad_token_id": 0},
    draws=draws.without(ernie4_5.FAMILY.draws, "head_dim")
    | {
        "head_dim": (12, 16),
        "num_key_value_heads": (2, 4, 1),
        "moe_num_experts": (8, 5),
        "moe_k": (3, 1, 4),
        "moe_num_shared_experts": (2, 0, 1),
        "moe_layer_start_index": (1, 0),
        "moe_layer_end_index": (-1, 1),
        "moe_layer_interval": (1, 2),
        "moe_norm_min": (1e-12, 0.5),
    },
)
