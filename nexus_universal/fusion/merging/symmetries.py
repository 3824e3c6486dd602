"""Which units of a model may change places without a change in what it computes: hidden units, heads, experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.architecture.mixers import Attention
from nexus_universal.checkpoint.load import slots
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.experts import Experts, UniversalExperts
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.layers.linear import InputProjections, PackedLinear


@dataclass(frozen=True)
class Axis:
    """Where units lie in a tensor: `positions` along `dim`, of one `expert` in a stack where that is given.

    Units are told apart by the tensors that are `matched`; the others follow.
    """

    name: str
    dim: int
    positions: Int[Tensor, "units each"]
    expert: int | None = None
    matched: bool = True


@dataclass(frozen=True)
class Symmetry:
    """Units of a kind that may be permuted, all axes at once."""

    kind: str
    axes: tuple[Axis, ...]


def symmetries(model: nn.Module) -> Iterator[Symmetry]:
    """All symmetries of hidden units, key/value heads with their queries, queries within those, and experts.

    Later ones are to be sought once earlier ones are settled. Attention that treats its heads differently has none.
    """
    held = set(slots(model))
    for path, module in model.named_modules():
        if any(name.startswith(f"{path}.") and "_adapters." in name for name in held):
            continue
        if isinstance(module, UniversalFeedForward):
            found = list(_hidden_units(path, module))
        elif isinstance(module, UniversalExperts):
            found = list(_experts(path, module))
        elif isinstance(module, UniversalAttention) and _alike(module.part):
            found = list(_heads(path, module))
        else:
            continue
        for symmetry in found:
            if axes := tuple(axis for axis in symmetry.axes if axis.name in held):
                yield Symmetry(symmetry.kind, axes)


def _alike(part: Attention) -> bool:
    """Whether heads differ in their weights only, and nothing outside reads them."""
    told_apart = (part.alibi, part.relative, part.convolution, part.differential, part.dynamic_mask, part.indexer)
    entangled = (part.emit, part.reuse, part.inner_norm, part.length_limit)
    of_each = (part.qk_norm and part.qk_norm.own, part.gate and part.gate.head_bias, part.projected_sinks)
    return not any((*told_apart, *entangled, *of_each, part.value_is_key, part.key_scale))


def rows_of(path: str, project: InputProjections, role: str, units: int) -> Iterator[Axis]:
    """A role's rows, and its bias, by unit; those of a packed matrix lie apart."""
    for name, layer in project.layers:
        if isinstance(layer, PackedLinear) and role in layer.roles:
            index = layer.roles.index(role)
            grouped = torch.arange(layer.out_features).view(layer.groups, -1)
            before = sum(layer.shares[:index])
            positions = grouped[:, before : before + layer.shares[index]].reshape(units, -1)
        elif name == role:
            positions = torch.arange(layer.out_features).view(units, -1)
        else:
            continue
        yield Axis(f"{path}.{name}.weight", 0, positions)
        yield Axis(f"{path}.{name}.bias", 0, positions)


def _hidden_units(path: str, module: UniversalFeedForward) -> Iterator[Symmetry]:
    width = module.part.width
    units = torch.arange(width).view(width, 1)
    roles = ("gate", "up") if module.part.gated else ("up",)
    axes = [axis for role in roles for axis in rows_of(path, module.project, role, width)]
    norms = (Axis(f"{path}.inner_norm.{leaf}", 0, units) for leaf in ("weight", "bias"))
    yield Symmetry("hidden units", (*axes, *norms, Axis(f"{path}.down.weight", 1, units)))


def _heads(path: str, module: UniversalAttention) -> Iterator[Symmetry]:
    part = module.part
    width, each = part.heads * part.value_width, part.heads // part.kv_heads
    keys = [axis for role in ("key", "value") for axis in rows_of(path, module.project, role, part.kv_heads)]
    if part.qk_norm and part.qk_norm.over == "width":
        rows = torch.arange(part.kv_heads * part.head_dim).view(part.kv_heads, -1)
        keys += [Axis(f"{path}.key_norm.{leaf}", 0, rows) for leaf in ("weight", "bias")]
    queries = [axis for role in ("query", "gate") for axis in rows_of(path, module.project, role, part.heads)]
    queries.append(Axis(f"{path}.output.weight", 1, torch.arange(width).view(part.heads, -1)))
    queries.append(Axis(f"{path}.sinks", 0, torch.arange(part.heads).view(-1, 1)))
    if part.qk_norm and part.qk_norm.over == "width":
        rows = torch.arange(part.heads * part.head_dim).view(part.heads, -1)
        queries += [Axis(f"{path}.query_norm.{leaf}", 0, rows) for leaf in ("weight", "bias")]
    following = (Axis(a.name, a.dim, a.positions.reshape(part.kv_heads, -1), matched=False) for a in queries)
    yield Symmetry("key/value heads", (*keys, *following))
    for group in range(part.kv_heads if each > 1 else 0):
        own = slice(group * each, (group + 1) * each)
        yield Symmetry("query heads", tuple(Axis(a.name, a.dim, a.positions[own]) for a in queries))


def _experts(path: str, module: UniversalExperts) -> Iterator[Symmetry]:
    part: MixtureOfExperts = module.part
    if part.router.groups is None and part.router.by_token is None:
        one_each = torch.arange(part.experts).view(-1, 1)
        router = [Axis(f"{path}.router.weight", 0, one_each)]
        leaves = ("bias", "selection_bias", "expert_scale")
        router += [Axis(f"{path}.router.{leaf}", 0, one_each, matched=False) for leaf in leaves]
        stacks = (name for name, _ in module.experts.named_parameters())
        following = (Axis(f"{path}.experts.{name}", 0, one_each, matched=False) for name in stacks)
        yield Symmetry("experts", (*router, *following))
    for expert in range(part.experts):
        yield Symmetry("hidden units", tuple(_units_of(f"{path}.experts", module.experts, expert)))


def _units_of(path: str, experts: Experts, expert: int) -> Iterator[Axis]:
    """The hidden units of one expert, along the axes behind that of the experts."""
    width = experts.part.width
    units = torch.arange(width).view(width, 1)
    if experts.entry == "up":
        rows = units
    else:
        groups = experts.packed.groups
        rows = torch.arange(2 * width).view(groups, 2, -1).transpose(1, 2).reshape(width, 2)
    yield Axis(f"{path}.{experts.entry}", 1, rows, expert)
    yield Axis(f"{path}.{experts.entry}_bias", 1, rows, expert)
    yield Axis(f"{path}.gate", 1, units, expert)
    yield Axis(f"{path}.down", 2, units, expert)
