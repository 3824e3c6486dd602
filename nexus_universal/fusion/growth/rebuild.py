"""What all growth shares: old weights placed into larger tensors, and the proof that the function is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import refuse_fused
from nexus_universal.architecture.packing import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import Program
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.fusion.retention import RetentionCertificate, Tier, certified, evidence_of
from nexus_universal.transformer import UniversalTransformer

Places = Int[Tensor, " old"]
MEASURED = 2, 24
"""Rows and positions of the random ids on which logits are compared."""


@dataclass(frozen=True)
class Axis:
    """Where the entries of an axis lie in a longer one; the new ones are `fresh`, as a new model's are drawn, or 0."""

    dim: int
    places: Places
    fresh: bool


def placed(new: Tensor, old: Tensor, axes: Iterable[Axis]) -> Tensor:
    """`old` at its places in `new`, around it what is fresh or 0."""
    axes, out = list(axes), new.clone()
    for axis in axes:
        if not axis.fresh:
            kept = torch.zeros(out.shape[axis.dim], dtype=torch.bool).index_fill(0, axis.places, True)
            out.index_fill_(axis.dim, (~kept).nonzero().flatten(), 0)
    return _filled(out, old, axes)


def _filled(out: Tensor, old: Tensor, axes: list[Axis]) -> Tensor:
    if not axes:
        return old
    first, *rest = axes
    return out.index_copy(first.dim, first.places, _filled(out.index_select(first.dim, first.places), old, rest))


def started(model: UniversalTransformer, n: ArchitectureParameter, *, seed: int) -> UniversalTransformer:
    """A model of `n` with weights drawn by `seed`, in the dtype of `model`.

    Raises:
        InputError: a fused model.
    """
    refuse_fused(n, "growth")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return UniversalTransformer(n.validate()).to(model.dtype).train(model.training)


@torch.no_grad()
def grown(
    model: UniversalTransformer,
    n: ArchitectureParameter,
    *,
    seed: int,
    axes: Mapping[str, list[Axis]] | None = None,
    renamed: Callable[[str], str | None] = lambda name: name,
    written: Mapping[str, Tensor] | None = None,
) -> UniversalTransformer:
    """A model of `n` that holds the weights of `model`.

    A tensor of the new model comes from `written`, or from the old one that it is `renamed` to, its `axes` spread. It
    is as it was drawn where it has none.
    """
    larger, old = started(model, n, seed=seed), slots(model)
    for name, drawn in slots(larger).items():
        source = old.get(renamed(name) or "")
        if written and name in written:
            tensor = written[name].to(source.dtype if source is not None else drawn.dtype)
        elif source is None:
            continue
        else:
            tensor = placed(drawn.to(source), source.detach(), (axes or {}).get(name, ()))
        put(larger, name, tensor.clone())
    larger.settings, larger.passed_over = model.settings, dict(model.passed_over)
    return larger.to(model.device)


def growth_certificate(
    operation: str, promised: Tier, before: UniversalTransformer, after: UniversalTransformer
) -> RetentionCertificate:
    """Both models' logits of the same random ids, in float32 unless bits are promised.

    Raises:
        RetentionError: they differ by more than the promised tier allows.
    """
    ids = torch.randint(0, before.n.d_vocab, MEASURED, generator=torch.Generator().manual_seed(0)).to(before.device)
    old, new = (_logits(model, ids, exact=promised <= Tier.BITS) for model in (before, after))
    return certified(operation, promised, evidence_of(before.n.signature, old, new))


@torch.no_grad()
def _logits(model: UniversalTransformer, ids: Tensor, *, exact: bool) -> Tensor:
    training = model.training
    wide = model if exact or model.dtype == torch.float32 else copy.deepcopy(model).float()
    logits = wide.eval()(ids).logits
    model.train(training)
    return logits


def parts_of(n: ArchitectureParameter) -> Iterator[tuple[str, Any]]:
    """Every part of a layer with its module's path.

    Raises:
        InputError: layers share weights, so that a part is in several places.
    """
    for index, layer in enumerate(n.layers):
        for path, branch in layer.all_branches(f"layers.{index}."):
            if layer.share or branch.share or getattr(branch.part, "share", None):
                raise InputError(f"{path} shares its weights with other layers: growth needs weights of its own")
            if not isinstance(branch.part, Program):
                yield path, branch.part


def refuse(path: str, part: Any, why: str, **plain: Any) -> None:
    """Raise for the first field of `part` whose value is not the one named.

    Raises:
        InputError: the field, its value, and why growth would change the function.
    """
    for name, value in plain.items():
        if getattr(part, name, value) != value:
            raise InputError(f"{path}.{name} = {getattr(part, name)!r}: {why}")


def role_rows(rows: Mapping[str, int], packing: Iterable[Packed]) -> dict[str, tuple[str, Places]]:
    """In which tensor the rows of each role lie, and where in it: packed roles share one."""
    found = {role: (role, torch.arange(count)) for role, count in rows.items()}
    for packed in packing:
        shares = [rows[role] // packed.groups for role in packed.roles]
        laid = torch.arange(packed.groups * sum(shares)).view(packed.groups, -1).split(shares, dim=1)
        found |= {role: (packed.name, each.flatten()) for role, each in zip(packed.roles, laid, strict=True)}
    return found


def row_axes(
    old: Mapping[str, tuple[str, Places]], new: Mapping[str, tuple[str, Places]], spread: Mapping[str, Places]
) -> dict[str, list[Axis]]:
    """By tensor: where the old rows of projections go when each role's are `spread`; new rows are fresh."""
    places: dict[str, Tensor] = {}
    for role, (name, rows) in old.items():
        length = sum(len(each) for each_name, each in old.values() if each_name == name)
        places.setdefault(name, torch.empty(length, dtype=torch.long))[rows] = new[role][1][spread[role]]
    return {name: [Axis(0, found, fresh=True)] for name, found in places.items()}


def named(path: str, axes: Mapping[str, list[Axis]]) -> dict[str, list[Axis]]:
    """Under `path`, of a projection's weight and of its bias, if it has one."""
    return {f"{path}.{name}.{kind}": each for name, each in axes.items() for kind in ("weight", "bias")}
