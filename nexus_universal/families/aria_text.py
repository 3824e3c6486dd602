"""Aria's text model (arXiv 2410.05993): Llama with experts in every layer, beside shared ones."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Transposed
from nexus_universal.families.shared import dense, draws, names
from nexus_universal.families.shared.common import rms_norm
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=32000, width=4096, inner=4096, depth=32, heads=32, pad=2)
EXPERTS, MLP = "layers.{i}.feed_forward.experts", f"{names.LAYER}.mlp"


def experts(reader: ConfigReader, shared: FeedForward) -> MixtureOfExperts:
    """Routed experts always gate by SiLU and have no biases; as many shared ones are one that is wider."""
    return MixtureOfExperts(
        experts=reader.count("moe_num_experts", 8),
        per_token=reader.count("moe_topk", 2),
        expert=FeedForward(width=shared.width, activation="silu"),
        router=Router(score="softmax_chosen", normalise=False, weights="model"),
        shared=replace(shared, width=shared.width * reader.count("moe_num_shared_experts", 2)),
    )


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(
        reader,
        SIZE,
        rms_norm(reader, 1e-6),
        feed_forward=dense.gated_biases(reader),
        feed_forwards=lambda expert, _: experts(reader, expert),
    )


FAMILY = Family(
    model_type="aria_text",
    title="Aria (text)",
    read=read,
    weights=names.weights(
        names.shared_experts(),
        {
            "layers.{i}.feed_forward.router": f"{MLP}.router",
            f"{EXPERTS}.gate_up": (Transposed(f"{MLP}.experts.fc1.weight"), Transposed(f"{MLP}.experts.gate_up_proj")),
            f"{EXPERTS}.down": (Transposed(f"{MLP}.experts.fc2.weight"), Transposed(f"{MLP}.experts.down_proj")),
        },
    ),
    irrelevant={"pretraining_tp": "split products in training; transformers no longer reads it"},
    tiny=draws.TINY | {"intermediate_size": 24, "moe_num_experts": 8, "moe_topk": 3, "pad_token_id": 1},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (None, 16, 8),
        "mlp_bias": (False, True),
        "moe_num_experts": (8, 5),
        "moe_topk": (3, 1, 4),
        "moe_num_shared_experts": (2, 1, 3),
        "pad_token_id": (1, None),
    },
)
