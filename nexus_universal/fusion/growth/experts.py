"""More experts: new ones that nobody chooses yet. `fusion/merging/experts.py` makes experts of dense models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.paths import with_parts
from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion.growth.rebuild import (
    Axis,
    grown,
    growth_certificate,
    parts_of,
    refuse,
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
