"""How tensors are named and laid out in files, as data: rules that load and save by the same table. No torch here.

A canonical name is a parameter of the one class (`layers.3.attention.query.weight`); templates write indices as `{i}`
and experts as `{e}`. A rule says which tensors of a file make up one parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Direct:
    """The file's tensor as it is: assigned without a copy."""

    name: str


@dataclass(frozen=True)
class Transposed:
    """Stored [in, out] (Conv1D): a strided view, no copy."""

    name: str


@dataclass(frozen=True)
class Squeezed:
    """Stored with an axis of length 1 (a depthwise convolution's channel axis): a view, no copy."""

    name: str
    axis: int


@dataclass(frozen=True)
class Stacked:
    """One file tensor per expert and name; those of one expert are joined along rows, then all experts are stacked."""

    names: tuple[str, ...]


Rule = Direct | Transposed | Squeezed | Stacked


def names_of(rule: Rule, *, indices: tuple[str, ...], experts: int) -> list[str]:
    """The file names a rule reads for a parameter with these indices; expert by expert for `Stacked`."""
    templates = rule.names if isinstance(rule, Stacked) else (rule.name,)
    filled = [_fill(template, indices) for template in templates]
    if not isinstance(rule, Stacked):
        return filled
    return [name.replace("{e}", str(expert)) for expert in range(experts) for name in filled]


def _fill(template: str, indices: tuple[str, ...]) -> str:
    for index in indices:
        template = template.replace("{i}", index, 1)
    return template


@dataclass(frozen=True, kw_only=True)
class WeightMap:
    """The table of one family.

    `tensors` maps a canonical name, or its stem before `.weight` / `.bias`, to a file name or to rules in order of
    preference (the published layout first: it is the one that is saved). `passed_over` are patterns of tensors that are
    rightly left unused, with the reason. `optional_prefix` may be missing from a file's names.
    """

    tensors: Mapping[str, str | Rule | tuple[Rule, ...]]
    passed_over: Mapping[str, str] = field(default_factory=dict)
    optional_prefix: str = ""

    def rules(self, canonical: str) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        """The rules for a parameter, and the indices in its name.

        Raises:
            KeyError: the table has no entry for it.
        """
        indices = tuple(INDEX.findall(canonical))
        template = INDEX.sub("{i}", canonical)
        found = self.tensors.get(template)
        if found is None:
            stem, _, suffix = template.rpartition(".")
            found = self.tensors[stem]
            if isinstance(found, str):
                return (Direct(f"{found}.{suffix}"),), indices
            if suffix == "bias" and isinstance(found, Transposed):
                return (Direct(f"{found.name}.bias"),), indices
            if isinstance(found, Transposed):
                return (Transposed(f"{found.name}.{suffix}"),), indices
            raise KeyError(canonical)
        if isinstance(found, str):
            return (Direct(found),), indices
        return (found if isinstance(found, tuple) else (found,)), indices

    def reason_to_pass_over(self, name: str) -> str | None:
        """Why a tensor of a file may stay unused; None where it may not."""
        for pattern, reason in self.passed_over.items():
            if re.search(pattern, name):
                return reason
        return None

    def modules(self) -> Iterator[tuple[str, str]]:
        """(canonical module, reference module) for every stem that is a module on both sides."""
        for canonical, found in self.tensors.items():
            target = found.name if isinstance(found, Transposed) else found
            if isinstance(target, str) and not canonical.endswith((".weight", ".bias")):
                yield canonical, target
