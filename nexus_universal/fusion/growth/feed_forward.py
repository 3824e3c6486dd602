"""More hidden units: new ones read through fresh rows of gate and up, and leave through zero columns of down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.paths import with_parts
from nexus_universal.fusion.growth.rebuild import (
    Axis,
    grown,
    growth_certificate,
    named,
    parts_of,
    refuse,
    role_rows,
    row_axes,
)
from nexus_universal.fusion.retention import Tier
from nexus_universal.transformer import UniversalTransformer

Which = Literal["dense", "experts", "shared"]
TIER = Tier.REAL
SEES_ALL = "it looks at all hidden units together, and would see the new ones"


def widen_feed_forward(
    model: UniversalTransformer, width: int, *, of: Which = "dense", seed: int = 0
) -> UniversalTransformer:
    """Every dense feed-forward (or every expert, or shared expert) grown to `width` hidden units: R2.

    Raises:
        InputError: there is none, one is wider already, or its hidden units are normed or thinned out together.
        RetentionError: logits changed.
    """
    axes: dict[str, list[Axis]] = {}
    for path, part in parts_of(model.n):
        old = _chosen(part, of)
        if old is None:
            continue
        if old.width > width:
            raise InputError(f"{path}.width = {old.width}: growth to {width} would shrink it")
        refuse(path, old, SEES_ALL, inner_norm=None, sparsity=None)
        if of == "experts":
            axes |= _stacks(path, part, width)
        else:
            axes |= _projections(f"{path}.shared" if of == "shared" else path, old, width)
    if not axes:
        raise InputError(f"this model has no feed-forward of the kind {of!r}: {model.n.signature}")
    n = with_parts(model.n, lambda part: _with_width(part, of, width))
    larger = grown(model, n, seed=seed, axes=axes)
    growth_certificate("widen_feed_forward", TIER, model, larger)
    return larger


def _chosen(part: Any, of: Which) -> FeedForward | None:
    if isinstance(part, MixtureOfExperts):
        return {"dense": None, "experts": part.expert, "shared": part.shared}[of]
    return part if isinstance(part, FeedForward) and of == "dense" else None


def _with_width(part: Any, of: Which, width: int) -> Any:
    old = _chosen(part, of)
    if old is None:
        return part
    packing = tuple(replace(each, groups=width) if each.groups == old.width > 1 else each for each in old.packing)
    new = replace(old, width=width, packing=packing)
    return new if part is old else replace(part, **{{"experts": "expert", "shared": "shared"}[of]: new})


def _rows(part: FeedForward, width: int) -> dict[str, int]:
    return dict.fromkeys(("gate", "up") if part.gated else ("up",), width)


def _projections(path: str, part: FeedForward, width: int) -> dict[str, list[Axis]]:
    old, new = _rows(part, part.width), _rows(part, width)
    spread = dict.fromkeys(old, torch.arange(part.width))
    wider: Any = _with_width(part, "dense", width)
    rows = row_axes(role_rows(old, part.packing), role_rows(new, wider.packing), spread)
    return named(path, rows) | {f"{path}.down.weight": [Axis(1, torch.arange(part.width), fresh=False)]}


def _stacks(path: str, part: MixtureOfExperts, width: int) -> dict[str, list[Axis]]:
    """Of all experts at once: [experts, rows, d] and [experts, d, width]."""
    expert = part.expert
    joined = expert.gated and part.stacks == "joined"
    packing = (expert.packing or (Packed(roles=("gate", "up")),)) if joined else ()
    wider: Any = _with_width(expert, "dense", width)
    larger = wider.packing or packing
    old, new = _rows(expert, expert.width), _rows(expert, width)
    spread = dict.fromkeys(old, torch.arange(expert.width))
    axes: dict[str, list[Axis]] = {}
    for name, (rows,) in row_axes(role_rows(old, packing), role_rows(new, larger), spread).items():
        stacked = [Axis(1, rows.places, fresh=True)]
        axes |= {f"{path}.experts.{name}": stacked, f"{path}.experts.{name}_bias": stacked}
    down = [Axis(2, torch.arange(expert.width), fresh=False)]
    axes[f"{path}.experts.down"] = down
    steady = [Axis(1, torch.arange(expert.width), fresh=True)]
    return axes | {f"{path}.always.gate": steady, f"{path}.always.up": steady, f"{path}.always.down": down}
