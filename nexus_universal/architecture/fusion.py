"""Several n's in one: members that stand beside the first, and how what they compute is joined."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.errors import InputError, InvalidArchitecture
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.program import Program, only_reuses

if TYPE_CHECKING:
    from nexus_universal.architecture.parameter import ArchitectureParameter

Join = Literal["route", "mixture", "all"]


@part
class Member(Part):
    """One more model, by the name of what it is asked for. It is an n of its own, with weights of its own."""

    name: str
    n: Part

    def problems(self) -> Iterator[tuple[str, str]]:
        if not hasattr(self.n, "layers"):
            yield "n", "must be an ArchitectureParameter"
        elif getattr(self.n, "fusion", None):
            yield "n.fusion", "must be None: its members join those of the whole, by names of their own"
        if not self.name.isidentifier():
            yield "name", "must be an identifier: letters, digits and _, no digit in front"


@part
class Fusion(Part):
    """What makes an n with members a fused model; the first member is the n that holds this, under `name`.

    "route" computes the one that a call names (f(x, c) = f_c(x), the first where none is named). "all" is the direct
    sum: x = [x_1 | x_2 | …], every matrix block-diagonal, norms by segment, logits side by side. "mixture" is
    log Σ w_i softmax(f_i(x)), the w_i being `weights`, equal where none are given.
    """

    name: str
    members: tuple[Member, ...]
    join: Join = "route"
    weights: tuple[float, ...] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [self.name, *(member.name for member in self.members)]
        if not self.members:
            yield "members", "must not be empty: fusion = None says that a model stands alone"
        if len(set(names)) < len(names):
            yield "members", f"must have different names, not {', '.join(names)}"
        if not self.name.isidentifier():
            yield "name", "must be an identifier: letters, digits and _, no digit in front"
        if self.weights is not None:
            if self.join != "mixture":
                yield "weights", "must be None where join is not 'mixture'"
            elif len(self.weights) != len(names) or min(self.weights) <= 0 or abs(sum(self.weights) - 1) > 1e-9:
                yield "weights", f"must be {len(names)} positive numbers whose sum is 1"

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights of a mixture, given or equal."""
        count = len(self.members) + 1
        return self.weights or (1 / count,) * count


def bridges_of(n: ArchitectureParameter) -> dict[str, Bridge]:
    """What n reads of other members, by place: `layers.3.bridge`."""
    return {
        f"layers.{index}.{path}": branch.part
        for index, layer in enumerate(n.layers)
        for path, branch in layer.all_branches()
        if isinstance(branch.part, Bridge)
    }


def deepest_taps(n: ArchitectureParameter) -> dict[str, int]:
    """How many layers of each donor run when n does."""
    bridges = bridges_of(n).values()
    return {donor: max(each.layer for each in bridges if each.donor == donor) for donor in {b.donor for b in bridges}}


def alone(n: ArchitectureParameter) -> ArchitectureParameter:
    """The first member: n without the others, and without what it reads of them."""
    if n.fusion is None:
        return n
    layers = tuple(_without_bridges(layer) for layer in n.layers) if bridges_of(n) else n.layers
    return dataclasses.replace(n, fusion=None, layers=layers)


def _without_bridges(layer: Program) -> Program:
    own = (step for step in layer.steps if not any(isinstance(branch.part, Bridge) for branch in step.branches))
    return dataclasses.replace(layer, steps=tuple(own))


def members_of(n: ArchitectureParameter) -> dict[str, ArchitectureParameter]:
    """All members by name, the first one (with its bridges) first; an n that is not fused has none."""
    if n.fusion is None:
        return {}
    others: dict[str, Any] = {member.name: member.n for member in n.fusion.members}
    return {n.fusion.name: dataclasses.replace(n, fusion=None)} | others


def refuse_fused(n: ArchitectureParameter, what: str) -> None:
    """Say that something is done for each branch by itself.

    Raises:
        InputError: n is fused.
    """
    if n.fusion is not None:
        raise InputError(
            f"{what} is for one model alone: take the branches of this n one by one ({', '.join(n.branches)})"
        )


def fusion_problems(n: ArchitectureParameter) -> Iterator[tuple[str, Any, str]]:
    """What members must have in common: a mixture one vocabulary, and bridges what they read."""
    members: tuple[Any, ...] = n.fusion.members if n.fusion else ()
    yield from _bridge_problems(n, {member.name: member.n for member in members})
    if n.fusion is None or n.fusion.join != "mixture":
        return
    for index, member in enumerate(members):
        vocab: int = member.n.embedding.vocab
        if vocab != n.embedding.vocab:
            path = f"fusion.members.{index}.n.embedding.vocab"
            yield path, vocab, f"must be {n.embedding.vocab}: a mixture is over one vocabulary"


def _bridge_problems(n: ArchitectureParameter, donors: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Every bridge reads a member that is there, at a layer that it has, as wide as it is, in one alignment."""
    aligned: dict[str, str] = {}
    for path, bridge in bridges_of(n).items():
        donor = donors.get(bridge.donor)
        index = int(path.split(".")[1])
        if donor is None:
            known = ", ".join(donors) or "none: n has no other member"
            yield f"{path}.donor", bridge.donor, f"must name another member ({known})"
            continue
        if bridge.layer > len(donor.layers):
            yield (
                f"{path}.layer",
                bridge.layer,
                f"must lie in [0, {len(donor.layers)}]: {bridge.donor} has no more layers",
            )
        if bridge.donor_width != donor.embedding.width:
            yield f"{path}.donor_width", bridge.donor_width, f"must be {donor.embedding.width}, the donor's width"
        if donor.streams:
            yield f"{path}.donor", bridge.donor, f"has {donor.streams.count} residual streams: a bridge reads one"
        if aligned.setdefault(bridge.donor, bridge.align) != bridge.align:
            yield f"{path}.align", bridge.align, f"must be {aligned[bridge.donor]!r}, as in the donor's other bridges"
        if n.head.skips != "head" and all(only_reuses(layer) for layer in n.layers[index:]):
            yield path, bridge.donor, "must stand in an earlier layer: from this one on the last positions run alone"
        if not any(bridge is branch.part for step in n.layers[index].steps for branch in step.branches):
            yield path, bridge.donor, "must stand in a step of the layer itself"


def fused(
    join: Join = "route", *, weights: tuple[float, ...] | None = None, **models: ArchitectureParameter
) -> ArchitectureParameter:
    """One n of several, by name; each may itself be fused, and then gives its members under their own names.

    Example:
        >>> n = fused(prose=ArchitectureParameter.from_huggingface(a), code=ArchitectureParameter.from_huggingface(b))
        >>> list(n.branches)
        ['prose', 'code']

    Raises:
        InvalidArchitecture: fewer than two models, a name twice, or a mixture over different vocabularies.
    """
    flat: list[tuple[str, ArchitectureParameter]] = []
    for name, n in models.items():
        flat += members_of(n).items() if n.fusion else [(name, n)]
    if not flat:
        raise InvalidArchitecture("fused() needs at least two models, by name: fused(prose=n, code=m)")
    (name, first), *others = flat
    members = tuple(Member(name=name, n=n) for name, n in others)
    return dataclasses.replace(first, fusion=Fusion(name=name, members=members, join=join, weights=weights)).validate()
