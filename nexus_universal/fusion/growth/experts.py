"""More experts: new ones that nobody chooses yet, or a dense feed-forward turned into equal experts (upcycling)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion.growth.rebuild import (
    Axis,
    grown,
    growth_certificate,
    parts_of,
    refuse,
    role_rows,
    with_parts,
)
from nexus_universal.fusion.retention import Tier
from nexus_universal.transformer import UniversalTransformer

TIER = Tier.REAL
ASLEEP = -1e9
"""A new expert's bias: it is never chosen, and its share of a softmax is 0."""


def add_experts(model: UniversalTransformer, count: int, *, seed: int = 0) -> UniversalTransformer:
    """`count` more experts in every mixture, asleep: R2. A router without a bias is given one, 0 for the old experts.

    That bias keeps them asleep, and the one for selection alone where there is one; whoever trains them raises it.

    Raises:
        InputError: no mixture, or a router whose choice has no bias to put them to sleep with.
        RetentionError: logits changed.
    """
    if count < 1:
        raise InputError(f"count = {count} must be at least 1")
    axes: dict[str, list[Axis]] = {}
    written: dict[str, Tensor] = {}
    old = slots(model)
    for path, part in parts_of(model.n):
        if not isinstance(part, MixtureOfExperts):
            continue
        refuse(path, part, "new experts would stand among other choices", identity_experts=0, always=0)
        plain = {"groups": None, "by_token": None, "tolerance": None}
        refuse(f"{path}.router", part.router, "the choice is not one of all experts by their scores", **plain)
        places = [Axis(0, torch.arange(part.experts), fresh=True)]
        stacks = ("gate_up", "gate", "up", "down", "gate_up_bias", "up_bias", "down_bias")
        axes |= {f"{path}.experts.{name}": places for name in stacks}
        axes |= {f"{path}.router.{name}": places for name in ("weight", "expert_scale")}
        for name in _sleeping(part.router):
            slot = old.get(f"{path}.router.{name}")
            kept = torch.zeros(part.experts, dtype=model.dtype, device=model.device) if slot is None else slot.detach()
            written[f"{path}.router.{name}"] = torch.cat([kept, kept.new_full((count,), ASLEEP)])
    if not written:
        raise InputError(f"this model has no experts: {model.n.signature}")
    n = with_parts(model.n, lambda part: _with_more(part, count))
    larger = grown(model, n, seed=seed, axes=axes, written=written)
    growth_certificate("add_experts", TIER, model, larger)
    return larger


def _sleeping(router: Router) -> tuple[str, ...]:
    """The biases that keep an expert asleep: of the choice, and of a softmax's shares, which all experts divide."""
    chosen = ("selection_bias",) if router.selection_bias else ()
    return chosen if chosen and router.score != "softmax" and not router.bias else (*chosen, "bias")


def _with_more(part: Any, count: int) -> Any:
    if not isinstance(part, MixtureOfExperts):
        return part
    router = replace(part.router, bias="bias" in _sleeping(part.router))
    return replace(part, experts=part.experts + count, router=router)


def upcycle(model: UniversalTransformer, experts: int, *, per_token: int, seed: int = 0) -> UniversalTransformer:
    """Every dense feed-forward as a mixture of equal experts (arXiv 2212.05055): R2, for their weights sum to 1.

    Raises:
        InputError: no dense feed-forward, or one that no expert can be.
        RetentionError: logits changed.
    """
    if not 1 <= per_token <= experts:
        raise InputError(f"per_token = {per_token} must lie in [1, experts = {experts}]")
    written: dict[str, Tensor] = {}
    old = slots(model)
    for path, part in parts_of(model.n):
        if isinstance(part, FeedForward):
            plain = {"inner_norm": None, "sparsity": None, "output_scale": None, "late_bias": False}
            refuse(path, part, "no expert has that", **plain)
            if part.activation == "xielu" or (part.gated and len({"gate", "up"} & set(part.biases)) == 1):
                raise InputError(f"{path}: no expert has this activation, or a bias of one of gate and up")
            written |= {name: _repeated(tensor, experts) for name, tensor in _expert(path, part, old).items()}
    if not written:
        raise InputError(f"this model has no dense feed-forward: {model.n.signature}")
    n = with_parts(model.n, lambda part: _mixture(part, experts, per_token) if isinstance(part, FeedForward) else part)
    larger = grown(model, n, seed=seed, written=written)
    growth_certificate("upcycle", TIER, model, larger)
    return larger


def _mixture(part: FeedForward, experts: int, per_token: int) -> MixtureOfExperts:
    router = Router(score="softmax", normalise=True)
    return MixtureOfExperts(experts=experts, per_token=per_token, expert=replace(part, packing=()), router=router)


def _repeated(tensor: Tensor, experts: int) -> Tensor:
    return tensor.detach().expand(experts, *tensor.shape)


def _expert(path: str, part: FeedForward, old: dict[str, Tensor]) -> dict[str, Tensor]:
    """One expert's share of the stacks: gate rows before up rows, as where nothing is packed."""
    roles: dict[str, int] = dict.fromkeys(("gate", "up") if part.gated else ("up",), part.width)
    found = role_rows(roles, part.packing)
    entry = f"{path}.experts.{'gate_up' if part.gated else 'up'}"
    one = {f"{path}.experts.down": old[f"{path}.down.weight"]}
    one[entry] = torch.cat([old[f"{path}.{name}.weight"][rows] for name, rows in found.values()])
    if "up" in part.biases:
        one[f"{entry}_bias"] = torch.cat([old[f"{path}.{name}.bias"][rows] for name, rows in found.values()])
    if "down" in part.biases:
        one[f"{path}.experts.down_bias"] = old[f"{path}.down.bias"]
    return one
