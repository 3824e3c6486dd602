"""What the Granite families share: their windows and multipliers, and those with experts their block and its names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, residual_step
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common
from nexus_universal.families.shared.names import LAYER, Names, either
from nexus_universal.families.shared.reader import ConfigReader

ROUTER = Router(score="softmax_chosen", normalise=False, weights="rounded")

CYCLE = ("full_attention", *("sliding_attention",) * 3)

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


MODULE = f"{LAYER}.block_sparse_moe"

EXPERTS_NORM: Names = {"layers.{i}.experts_norm": f"{LAYER}.post_attention_layernorm"}

SINKS: Names = {"layers.{i}.attention.sinks": f"{LAYER}.self_attn.sinks"}

WINDOW_DRAWS: dict[str, tuple[Any, ...]] = {
    "sliding_window": (16, 7, 128),
    "layer_types": (None, [*CYCLE[1:], *CYCLE[:2]]),
    "layer_rope_theta": (None, [0, 100.0, 100.0, 500.0, 0]),
}
"""For five layers."""

EXPERT_DRAWS: dict[str, tuple[Any, ...]] = {"num_local_experts": (8, 5), "num_experts_per_tok": (3, 1, 5)}


def windowed(reader: ConfigReader, full: Attention, depth: int) -> list[Attention]:
    """Three windowed layers of four, and a base of rotation for each layer, 0 being none."""
    assert full.rope is not None
    sliding = replace(full, window=reader.count("sliding_window", 128))
    mixed = common.windowed(common.cycled_types(reader, depth, CYCLE), full, sliding=sliding)
    bases = reader.layer_numbers("layer_rope_theta", length=depth) or (full.rope.theta,) * depth
    rotations = {base: replace(full.rope, theta=base) if base else None for base in bases}
    return [replace(mixer, rope=rotations[base]) for mixer, base in zip(mixed, bases, strict=True)]


def decoder(
    reader: ConfigReader,
    *,
    with_shared: bool = True,
    mixers: Callable[[Attention, int], Iterable[Attention]] | None = None,
    **attention: Any,
) -> ArchitectureParameter:
    """Attention, then experts, beside a network that every token visits where it has a width; all with multipliers."""
    table = {"scale": reader.number("embedding_multiplier", 1.0), "scale_inputs": True}
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=4096, bos=1, eos=2, **table)
    norm = common.rms_norm(reader, 1e-6)
    scores = reader.number("attention_multiplier", 1.0)
    plain = common.attention(reader, text, embedding.width, heads=32, scale=scores, **attention)
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=common.feed_forward(reader, 11008),
        router=ROUTER,
    )
    scale = reader.number("residual_multiplier", 1.0)
    last = residual_step("experts", experts, norm=norm, scale=scale)
    if with_shared and reader.take("shared_intermediate_size", 0) != 0:
        last = beside(experts, shared_expert(reader, experts.expert.activation), norm=norm, scale=scale)
    depth = reader.count("num_hidden_layers", 32)
    attentions = mixers(plain, depth) if mixers else [plain] * depth
    layers = [Program(steps=(residual_step("attention", each, norm=norm, scale=scale), last)) for each in attentions]
    return common.decoder(reader, text, embedding, layers, norm, divisor=reader.number("logits_scaling", 1.0))


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


def held_experts() -> Names:
    """Experts as transformers holds them."""
    return {
        "layers.{i}.experts.experts.gate_up": Direct(f"{MODULE}.experts.gate_up_proj"),
        "layers.{i}.experts.experts.down": Direct(f"{MODULE}.experts.down_proj"),
        "layers.{i}.experts.router.weight": Direct(f"{MODULE}.router.weight"),
    }


def experts() -> Names:
    """Experts as published and as transformers holds them: always stacked."""
    published: Names = {
        "layers.{i}.experts.experts.gate_up": Direct(f"{MODULE}.input_linear.weight"),
        "layers.{i}.experts.experts.down": Direct(f"{MODULE}.output_linear.weight"),
        "layers.{i}.experts.router.weight": Direct(f"{MODULE}.router.layer.weight"),
    }
    return either(published, held_experts())


def beside_experts(module: str = f"{LAYER}.shared_mlp") -> Names:
    """The network that every token visits, and the norm before it and the experts."""
    ours = "layers.{i}.feed_forward"
    return {
        f"{ours}.gate_up": f"{module}.input_linear",
        f"{ours}.down": f"{module}.output_linear",
        **EXPERTS_NORM,
    }
