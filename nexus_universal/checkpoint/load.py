"""From files to parameters: plan first, with strict coverage, then assign or assemble tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.rules import (
    Direct,
    Folded,
    Interleaved,
    Joined,
    Leading,
    Numbered,
    Rule,
    Sliced,
    Squeezed,
    Stacked,
    Transposed,
    WeightMap,
    names_of,
)
from nexus_universal.layers.support import kept_in_float32

SHOWN = 5


@dataclass
class LoadPlan:
    """Which tensors fill which parameter, and which are passed over and why; made from names and shapes alone.

    `carried` are those that fill none but are saved with the rest, by the table's names.
    """

    sources: dict[str, tuple[Rule, list[str]]] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    carried: dict[str, str] = field(default_factory=dict)


def slots(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a checkpoint fills: parameters, and buffers such as a router's selection bias."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def matched(names: Iterable[str], patterns: Collection[str]) -> set[str]:
    """The names that one of the patterns fits, `*` standing for anything."""
    return {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)}


def in_float32(model: nn.Module, weights: WeightMap, dtype: torch.dtype) -> set[str]:
    """The slots that are loaded in float32, whatever the model's dtype."""
    names = slots(model)
    wide = (*weights.wide, *(weights.wide_in_half if dtype == torch.float16 else ()))
    return (set(kept_in_float32(model)) - matched(names, weights.narrow)) | matched(names, wide)


def idle_layers(model: nn.Module) -> tuple[int, ...]:
    """The layers that hold nothing: what a text does not pass through in a model of text and images."""
    layers = model.get_submodule("layers").children()
    return tuple(index for index, layer in enumerate(layers) if not any(True for _ in layer.parameters()))


def plan_load(model: nn.Module, weights: WeightMap, shapes: Mapping[str, tuple[int, ...]]) -> LoadPlan:
    """Match a model's slots with a file's tensors.

    Raises:
        CheckpointError: a slot that nothing fills, a tensor that nothing uses, or shapes that differ: both named.
    """
    plan = LoadPlan()
    missing: list[str] = []
    available, given = _names(shapes, weights)
    wanted = slots(model)
    for name, slot in wanted.items():
        try:
            rules, indices = weights.rules(name, tied="head.weight" not in wanted)
        except KeyError:
            missing.append(f"{name} (of which the family knows no tensor)")
            continue
        experts = slot.shape[0] if slot.dim() else 1
        choices = [(rule, names_of(rule, indices=indices, experts=experts, given=available)) for rule in rules]
        complete = next((choice for choice in choices if all(part in available for part in choice[1])), None)
        if complete is None:
            missing += [part for part in choices[0][1] if part not in available]
            continue
        rule, parts = complete
        plan.sources[name] = (rule, [given[part] for part in parts])
        check_shape(name, tuple(slot.shape), rule, [(part, available[part]) for part in parts])
    idle = idle_layers(model)
    plan.carried = {ours: theirs for ours, theirs in given.items() if weights.carries(ours, idle=idle)}
    used = {part for _, parts in plan.sources.values() for part in parts}
    unexpected: list[str] = []
    layers = len(list(model.get_submodule("layers").children()))
    for name in shapes:
        if name in used or name in plan.carried.values():
            continue
        reason = weights.reason_to_pass_over(name, layers=layers, idle=idle) or _tied(name, weights, model)
        if reason is None:
            unexpected.append(name)
        else:
            plan.passed_over[name] = reason
    if missing or unexpected:
        sides = [("missing", missing), ("unexpected", unexpected)]
        raise CheckpointError("; ".join(f"{side} tensors: {_shortened(names)}" for side, names in sides if names))
    return plan


def _names(
    shapes: Mapping[str, tuple[int, ...]], weights: WeightMap
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Shapes by the table's names, and from those names to the file's own (which may lack an optional prefix)."""
    prefix = weights.optional_prefix
    given = {name: name for name in shapes}
    if prefix and not any(name.startswith(prefix) for name in shapes):
        given = {prefix + name: name for name in shapes} | given
    return {ours: shapes[theirs] for ours, theirs in given.items()}, given


def _tied(name: str, weights: WeightMap, model: nn.Module) -> str | None:
    """A head on disk although it is tied: the reference ignores it too."""
    heads = weights.rules("head.weight")[0] if "head" in weights.tensors else ()
    if Direct(name) in heads and "head.weight" not in slots(model):
        return "the head is tied to the token table"
    return None


def _shortened(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def check_shape(name: str, shape: tuple[int, ...], rule: Rule, parts: list[tuple[str, tuple[int, ...]]]) -> None:
    """Compare shapes after the rule.

    Raises:
        CheckpointError: naming the tensor, its shape and the shape that n asks for.
    """
    if isinstance(rule, Joined | Numbered):
        found = (sum(found[0] for _, found in parts), *parts[0][1][1:])
        parts = [(" + ".join(part for part, _ in parts), found)]
    for part, found in parts:
        if isinstance(rule, Transposed):
            expected = (*shape[:-2], shape[-1], shape[-2])
        elif isinstance(rule, Squeezed | Joined) and rule.axis is not None:
            expected = tuple(torch.empty(shape, device="meta")[added(rule.axis, len(shape))].shape)
        elif isinstance(rule, Stacked):
            expected = (shape[1] // len(rule.names), *shape[2:])
        elif isinstance(rule, Folded):
            rows, width = (shape[2], shape[1]) if rule.transposed else shape[1:]
            expected = (shape[0] * rows, width)
        elif isinstance(rule, Sliced):
            expected = (shape[0] * rule.count, *shape[1:])
        elif isinstance(rule, Leading):
            expected = (max(found[0], shape[0]), *shape[1:])
        else:
            expected = shape
        if found != expected:
            raise CheckpointError(f"{part} has shape {found}, but n asks for {expected} (it fills {name})")


def assemble(
    slot: Tensor,
    rule: Rule,
    names: list[str],
    *,
    read: Callable[[str], Tensor],
    read_into: Callable[[str, Tensor], object],
    dtype: torch.dtype,
) -> Tensor:
    """The tensor for one slot: a view of what is read where the layout allows it, else filled piece by piece."""
    if isinstance(rule, Stacked):
        out = torch.empty(slot.shape, dtype=dtype)
        rows = slot.shape[1] // len(rule.names)
        for index, name in enumerate(names):
            expert, part = divmod(index, len(rule.names))
            read_into(name, out[expert, part * rows : (part + 1) * rows])
        return out
    if isinstance(rule, Numbered) and len(names) > 1:
        return torch.cat([read(name) for name in names]).to(dtype)
    if isinstance(rule, Joined):
        joined = torch.cat([read(name) for name in names]).to(dtype)
        return joined if rule.axis is None else joined.squeeze(rule.axis)
    tensor = read(names[0])
    if isinstance(rule, Transposed):
        tensor = tensor.mT
    elif isinstance(rule, Squeezed):
        tensor = tensor.squeeze(rule.axis)
    elif isinstance(rule, Sliced):
        tensor = tensor.chunk(rule.count)[rule.index]
    elif isinstance(rule, Leading):
        tensor = tensor[: slot.shape[0]]
    elif isinstance(rule, Interleaved):
        tensor = tensor.unflatten(1, (-1, 2)).transpose(1, 2).flatten(1, 2)
    elif isinstance(rule, Folded):
        tensor = tensor.unflatten(0, (slot.shape[0], -1))
        tensor = tensor.mT if rule.transposed else tensor
    return tensor if tensor.dtype == dtype or not tensor.is_floating_point() else tensor.to(dtype)


def added(axis: int | tuple[int, ...], dims: int) -> tuple[slice | None, ...]:
    """The index that gives a tensor of `dims` dimensions further ones of length 1, which then lie at `axis`."""
    axes = (axis,) if isinstance(axis, int) else axis
    return tuple(None if place in axes else slice(None) for place in range(dims + len(axes)))


def disassemble(tensor: Tensor, rule: Rule, names: list[str], *, rows: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """The file's tensors of one slot, a slice being a part of its own: the inverse of `assemble`, bytes unchanged.

    `rows` are those of tensors that lie one below the other.
    """
    if isinstance(rule, Joined) and rows:
        apart = tensor if rule.axis is None else tensor[added(rule.axis, tensor.dim())]
        return dict(zip(names, apart.split(rows), strict=True))
    if isinstance(rule, Direct | Sliced | Numbered):
        return {names[0]: tensor}
    if isinstance(rule, Transposed):
        return {names[0]: tensor.mT}
    if isinstance(rule, Squeezed):
        return {names[0]: tensor[added(rule.axis, tensor.dim())]}
    if isinstance(rule, Interleaved):
        return {names[0]: tensor.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)}
    if isinstance(rule, Folded):
        return {names[0]: (tensor.mT if rule.transposed else tensor).flatten(0, 1)}
    assert isinstance(rule, Stacked), f"{rule} is a layout to load from, not to save in"
    pieces = [piece for expert in tensor for piece in expert.chunk(len(rule.names), dim=0)]
    return dict(zip(names, pieces, strict=True))


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Assign a slot without copying: the tensor becomes the parameter or buffer."""
    path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = tensor
    else:
        owner._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())


def check_sort(name: str, dtype: torch.dtype, slot: Tensor) -> None:
    """Refuse integers in place of weights, which one wrong letter in a header can make of them.

    Raises:
        CheckpointError: the tensor `name` of this dtype does not belong into `slot`.
    """
    if dtype.is_floating_point != slot.is_floating_point():
        wanted = "floating-point numbers" if slot.is_floating_point() else "whole numbers"
        raise CheckpointError(f"{name} holds {str(dtype).removeprefix('torch.')}, but n asks for {wanted}")
