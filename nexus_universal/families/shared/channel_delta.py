"""Delta rules with a decay per channel beside latent attention (Kimi Linear, arXiv 2510.26692; Ling 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Program, sequential_layer
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.families.shared import names
from nexus_universal.families.shared.reader import ConfigReader

ALIASES = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "num_local_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
START: dict[str, Any] = {"decay_range": (1.0, 16.0), "step_range": (1e-3, 0.1, 1e-4)}
KINDS = ("linear_attention", "full_attention")
MODULE = f"{names.LAYER}.self_attn"
ROLES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "beta": "b_proj"}
UNREAD = ("rope_interleave", "tie_word_embeddings")
"""Draws of DeepSeek's that these do not read."""


def rule(*, heads: int, head_dim: int, kernel: int, norm: Norm, dense: FeedForward, **fields: Any) -> GatedDeltaRule:
    """The delta rule of a layer: as wide for keys as for values, its norm in float32 to the end."""
    return GatedDeltaRule(
        key_heads=heads,
        value_heads=heads,
        key_dim=head_dim,
        value_dim=head_dim,
        convolution=kernel,
        norm=norm,
        activation=dense.activation,  # type: ignore[arg-type]
        gate_activation="sigmoid",
        decay="channel",
        **fields,
    )


def layers(
    reader: ConfigReader,
    kinds: tuple[str, ...],
    mixers: tuple[GatedDeltaRule, LatentAttention],
    feeding: Mapping[str, Part],
    *,
    norm: Norm,
    dense_layers: int,
) -> list[Program]:
    """One layer of each kind that is listed; the first few have a dense network, the others experts."""
    parts: dict[str, tuple[str, Part]] = dict(
        zip(KINDS, zip(("linear_attention", "attention"), mixers, strict=True), strict=True)
    )
    first = reader.take("first_k_dense_replace", dense_layers)
    derived = tuple("dense" if index < first else "sparse" for index in range(len(kinds)))
    fed = reader.names("mlp_layer_types", length=len(kinds), known=tuple(feeding)) or derived
    return [
        sequential_layer(parts[kind], ("feed_forward", feeding[fed_by]), norm=norm)
        for kind, fed_by in zip(kinds, fed, strict=True)
    ]


def forget_gate(name: str) -> tuple[str, str]:
    """A tensor of the decay as published, and as transformers holds it."""
    return f"{MODULE}.{name}", f"{MODULE}.forget_gate.{name}"
