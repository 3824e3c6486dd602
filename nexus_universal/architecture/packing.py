"""Projections that are one matrix, as a part of n."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_universal.architecture.part import Part, part


@part
class Packed(Part):
    """Projections stored as one matrix and multiplied at once.

    The rows lie in `groups` equal blocks, each holding its share of every role in order: 1 group is [q|k|v], as many
    groups as heads is [q0|g0|q1|g1|…]. It is part of n because one matrix product has other bits than three.
    """

    roles: tuple[str, ...]
    groups: int = 1

    @property
    def name(self) -> str:
        return "_".join(self.roles)


def packing_problems(
    packing: tuple[Packed, ...], roles: tuple[str, ...], biases: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """A packing may name each of the mixer's input projections at most once, and has one bias for all or none."""
    named = [role for packed in packing for role in packed.roles]
    for role in named:
        if role not in roles:
            yield "packing", f"names {role!r} (known: {', '.join(roles)})"
    if len(named) != len(set(named)):
        yield "packing", "names a role twice"
    for packed in packing:
        if 0 < len(set(packed.roles) & set(biases)) < len(packed.roles):
            yield "biases", f"must name all or none of {', '.join(packed.roles)}, which are packed into one matrix"
