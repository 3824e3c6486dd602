"""What the Granite families with experts share: their router, the names of their tensors, their multipliers."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Step, Term, Write
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared.names import LAYER, Names
from nexus_universal.families.shared.reader import ConfigReader

ROUTER = Router(score="softmax_chosen", normalise=False, weights="rounded")

MULTIPLIERS: dict[str, Any] = {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.22,
    "logits_scaling": 7.0,
}
"""For tiny configs."""

MULTIPLIER_DRAWS: dict[str, tuple[Any, ...]] = {
    "embedding_multiplier": (12.0, 1.0, 6),
    "attention_multiplier": (0.25, 0.0078125),
    "residual_multiplier": (0.22, 1.0),
    "logits_scaling": (7.0, 1.0, 16),
}


def shared_expert(reader: ConfigReader, activation: Any) -> FeedForward:
    """The network of `shared_intermediate_size`, its gate and up rows in one matrix."""
    width = reader.count("shared_intermediate_size", 1024)
    return FeedForward(width=width, activation=activation, packing=(Packed(roles=("gate", "up")),))


def beside(experts: MixtureOfExperts, shared: FeedForward, *, norm: Norm, scale: float) -> Step:
    """x = x + scale · (experts + shared)."""
    branches = (Branch(name="experts", part=experts), Branch(name="feed_forward", part=shared))
    both = Write(register="both", terms=(Term(source="experts"), Term(source="feed_forward")))
    write = Write(terms=(Term(source="x"), Term(source="both", scale=scale)))
    return Step(branches=branches, writes=(both, write), norm=norm)


def experts(ours: str = "layers.{i}.experts", module: str = f"{LAYER}.block_sparse_moe") -> Names:
    """Experts as published and as transformers holds them: always stacked."""
    return {
        f"{ours}.experts.gate_up": (Direct(f"{module}.input_linear.weight"), Direct(f"{module}.experts.gate_up_proj")),
        f"{ours}.experts.down": (Direct(f"{module}.output_linear.weight"), Direct(f"{module}.experts.down_proj")),
        f"{ours}.router.weight": (Direct(f"{module}.router.layer.weight"), Direct(f"{module}.router.weight")),
    }


def beside_experts(module: str = f"{LAYER}.shared_mlp", norm: str = f"{LAYER}.post_attention_layernorm") -> Names:
    """The network that every token visits, and the norm before it and the experts."""
    ours = "layers.{i}.feed_forward"
    return {
        f"{ours}.gate_up": f"{module}.input_linear",
        f"{ours}.down": f"{module}.output_linear",
        "layers.{i}.experts_norm": norm,
    }
