"""More attention heads: new ones read through fresh rows, and leave through zero columns of the output projection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.paths import with_parts
from nexus_universal.fusion.growth.rebuild import (
    Axis,
    Places,
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

TIER = Tier.REAL
SEES_ALL = "it depends on how many heads there are, or looks at all of them together"


def add_heads(model: UniversalTransformer, count: int, *, seed: int = 0) -> UniversalTransformer:
    """`count` more query heads in every layer with softmax attention: R2. Heads keep their width and 1/√d_k.

    Where every query head has its own keys and values, new ones do, too; where heads share them, key/value heads stay
    as they are and each gets as many more queries, so that `count` must be a multiple of their number.

    Raises:
        InputError: no such layer, a count that cannot be shared out, or something that looks at all heads together.
        RetentionError: logits changed.
    """
    if count < 1:
        raise InputError(f"count = {count} must be at least 1")
    axes: dict[str, list[Axis]] = {}
    for path, part in parts_of(model.n):
        if isinstance(part, Attention):
            axes |= _attention(path, part, _larger(part, count, path))
        elif isinstance(part, LatentAttention):
            axes |= _latent(path, part)
    if not axes:
        raise InputError(f"this model has no softmax attention: {model.n.signature}")
    n = with_parts(model.n, lambda part: _larger(part, count, "attention"))
    larger = grown(model, n, seed=seed, axes=axes)
    growth_certificate("add_heads", TIER, model, larger)
    return larger


def _larger(part: Any, count: int, path: str) -> Any:
    if isinstance(part, LatentAttention):
        return replace(part, heads=part.heads + count)
    if not isinstance(part, Attention):
        return part
    if part.kv_heads == part.heads:
        heads = part.heads + count
        packing = tuple(
            replace(each, groups=heads if each.groups == part.heads and heads > 1 else each.groups)
            for each in part.packing
        )
        packing = part.packing if part.heads == 1 else packing
        return replace(part, heads=heads, kv_heads=heads, packing=packing)
    if count % part.kv_heads:
        raise InputError(f"{path}: {count} heads cannot be shared out among {part.kv_heads} key/value heads")
    return replace(part, heads=part.heads + count)


def _attention(path: str, old: Attention, new: Attention) -> dict[str, list[Axis]]:
    plain = ("alibi", "relative", "differential", "dynamic_mask", "convolution", "indexer", "inner_norm")
    refuse(path, old, SEES_ALL, **dict.fromkeys((*plain, "length_limit")), projected_sinks=False)
    if old.qk_norm:
        refuse(f"{path}.qk_norm", old.qk_norm, SEES_ALL, over="head", own=False)
    heads = _query_places(old, new)
    spread = {"query": _by_row(heads, old.head_dim)}
    if not old.reuse:
        spread["key"] = torch.arange(old.kv_heads * old.head_dim)
        if not old.value_is_key:
            spread["value"] = torch.arange(old.kv_heads * old.value_width)
    if old.gate:
        spread["gate"] = _by_row(heads, old.value_width if old.gate.per == "channel" else 1)
    rows = {role: len(places) for role, places in spread.items()}
    larger = {role: _grown(count, role, old, new) for role, count in rows.items()}
    found = named(path, row_axes(role_rows(rows, old.packing), role_rows(larger, new.packing), spread))
    found[f"{path}.output.weight"] = [Axis(1, _by_row(heads, old.value_width), fresh=False)]
    return found | {f"{path}.{name}": [Axis(0, heads, fresh=True)] for name in ("sinks", "gate_head_bias")}


def _grown(rows: int, role: str, old: Attention, new: Attention) -> int:
    """Rows of a role with the new number of heads, of queries or of keys and values."""
    before, after = (old.heads, new.heads) if role in ("query", "gate") else (old.kv_heads, new.kv_heads)
    return rows // before * after


def _query_places(old: Attention, new: Attention) -> Places:
    """New queries stand behind the old ones of their key/value head."""
    if old.kv_heads == old.heads:
        return torch.arange(old.heads)
    before, after = old.heads // old.kv_heads, new.heads // new.kv_heads
    return (torch.arange(old.kv_heads)[:, None] * after + torch.arange(before)).flatten()


def _by_row(heads: Tensor, width: int) -> Places:
    return (heads[:, None] * width + torch.arange(width)).flatten()


def _latent(path: str, part: LatentAttention) -> dict[str, list[Axis]]:
    """Rows lie head after head, so that new heads stand behind the old ones."""
    refuse(path, part, "gate and query of all heads are one product", joint_gate=False)
    per_head: Mapping[str, int] = {
        "query": part.head_dim,
        "query_up": part.head_dim,
        "latent_up": part.nope_dim + part.value_dim,
        "gate": part.value_dim if part.gate and part.gate.per == "channel" else 1,
    }
    axes = {name: [Axis(0, torch.arange(part.heads * rows), fresh=True)] for name, rows in per_head.items()}
    found = named(path, axes) | {f"{path}.sinks": [Axis(0, torch.arange(part.heads), fresh=True)]}
    return found | {f"{path}.output.weight": [Axis(1, torch.arange(part.heads * part.value_dim), fresh=False)]}
