"""Hunyuan 3 (Tencent): normed heads, a dense first layer, sigmoid-routed experts and a shared one."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=131072,
    vocab=120832,
    width=4096,
    inner=13312,
    depth=80,
    heads=64,
    kv_heads=8,
    head_dim=128,
    bos=None,
    eos=None,
)
MLP = f"{names.LAYER}.mlp"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)

    def feed_forwards(plain: FeedForward, depth: int) -> Iterable[FeedForward | MixtureOfExperts]:
        router = Router(
            score="sigmoid",
            normalise=True,
            selection_bias=True,
            sum_epsilon=1e-20,
            scale=reader.number("router_scaling_factor", 2.826),
            logits="float32",
            order="unsorted",
        )
        keys = ("num_experts", "num_shared_experts")
        experts = deepseek.experts(reader, plain, router, count=192, chosen=8, width=1536, keys=keys)
        return common.dense_or_sparse(reader, depth, plain, experts, dense_layers=1)

    return dense.decoder(
        reader,
        SIZE,
        norm,
        feed_forward=dense.gated_biases(reader),
        feed_forwards=feed_forwards,
        qk_norm=QueryKeyNorm(norm=norm),
        std=0.006,
    )


FAMILY = Family(
    model_type="hy_v3",
    title="Hunyuan 3",
    read=read,
    weights=names.weights(
        names.experts(
            published_router=f"{MLP}.router.gate",
            selection_bias=(f"{MLP}.expert_bias", f"{MLP}.e_score_correction_bias"),
        ),
        names.either(names.shared_experts(f"{MLP}.shared_mlp"), names.shared_experts()),
        passed_over=names.MULTI_TOKEN_PREDICTION,
    ),
    aliases={"num_local_experts": "num_experts"},
    irrelevant={
        "enable_moe_fp32_combine": "a sum of two numbers of half precision is that of float32, rounded",
    },
    rope_theta=11158840.0,
    tiny=draws.TINY | draws.TINY_EXPERTS,
    draws=draws.DENSE
    | {
        "head_dim": (16, 8),
        "mlp_bias": (False, True),
        "num_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 4),
        "num_shared_experts": (1, 2),
        "router_scaling_factor": (2.826, 1.0),
        "mlp_layer_types": (None, ["sparse", "dense"]),
    },
)
