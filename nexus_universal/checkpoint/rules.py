"""How tensors are named and laid out in files, as data: rules that load and save by the same table. No torch here.

A canonical name is a parameter of the one class (`layers.3.attention.query.weight`); templates write indices as `{i}`
and experts as `{e}`; `{i-1}` is the index before. A rule says which tensors of a file make up one parameter.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, takewhile

INDEX = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Direct:
    """The file's tensor as it is: assigned without a copy."""

    name: str


@dataclass(frozen=True)
class Transposed:
    """Stored [in, out] (Conv1D), or a stack of such: a strided view, no copy."""

    name: str


@dataclass(frozen=True)
class Squeezed:
    """Stored with an axis of length 1 (a depthwise convolution's channel axis), or several: a view, no copy."""

    name: str
    axis: int | tuple[int, ...]


@dataclass(frozen=True)
class Leading:
    """The first rows of the file's tensor, a view: nothing reads those behind them. Loaded, never saved."""

    name: str


@dataclass(frozen=True)
class Folded:
    """All experts' matrices one below the other, each [in, out] where `transposed`: a view, no copy."""

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class Stacked:
    """One file tensor per expert and name; those of one expert are joined along rows, then all experts are stacked."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Sliced:
    """The `index`th of `count` equal slices, row below row, of a file's tensor: a view, no copy."""

    name: str
    index: int
    count: int


@dataclass(frozen=True)
class Joined:
    """Several file tensors, one below the other: they hold apart what is one matrix here.

    They are saved only where its module says the rows of each, in `parts`. `axis` is one of length 1 in the file.
    """

    names: tuple[str, ...]
    axis: int | None = None


@dataclass(frozen=True)
class Numbered:
    """Several file tensors, one below the other, as many as there are: `{e}` counts them from 0. Saved as one."""

    name: str


@dataclass(frozen=True)
class Interleaved:
    """All experts' matrices, whose rows alternate between two roles: one role's follow the other's here."""

    name: str


Rule = Interleaved | Direct | Transposed | Squeezed | Leading | Folded | Stacked | Sliced | Joined | Numbered


def names_of(rule: Rule, *, indices: tuple[str, ...], experts: int, given: Container[str] = ()) -> list[str]:
    """The file names a rule reads for a parameter with these indices; expert by expert for `Stacked`.

    `given` are the names that a file has: for `Numbered` as many as are there, but at least one.
    """
    templates = rule.names if isinstance(rule, Stacked | Joined) else (rule.name,)
    filled = [_fill(template, indices) for template in templates]
    if isinstance(rule, Numbered):
        numbered = (filled[0].replace("{e}", str(number)) for number in count())
        return [next(numbered), *takewhile(lambda name: name in given, numbered)]
    if not isinstance(rule, Stacked):
        return filled
    return [name.replace("{e}", str(expert)) for expert in range(experts) for name in filled]


def _fill(template: str, indices: tuple[str, ...]) -> str:
    for index in indices:
        template = template.replace("{i}", index, 1).replace("{i-1}", str(int(index) - 1), 1)
    return template


@dataclass(frozen=True, kw_only=True)
class WeightMap:
    """The table of one family.

    `tensors` maps a canonical name, or its stem before `.weight` / `.bias`, to a file name, a rule, or several in order
    of preference (the published layout first: it is the one that is saved). `passed_over` are patterns of tensors that
    are rightly left unused, with the reason; `{layers}` in them is the number of n's layers, `{idle}` any of them that
    computes nothing. `carried` are those that no logit depends on, but which transformers' class has: they are kept as
    they are and saved with the rest.
    `wide` are patterns (of canonical names) of parameters that stay in float32 in a model of any dtype, `wide_in_half`
    in one of float16, `narrow` of buffers that are in the model's: what transformers' class loads them in.
    `optional_prefix` may be missing from a file's names. `free` are names that take precedence where the head is not
    tied.
    """

    tensors: Mapping[str, str | Rule | tuple[str | Rule, ...]]
    passed_over: Mapping[str, str] = field(default_factory=dict)
    carried: Mapping[str, str] = field(default_factory=dict)
    optional_prefix: str = ""
    free: Mapping[str, str] = field(default_factory=dict)
    wide: tuple[str, ...] = ()
    wide_in_half: tuple[str, ...] = ()
    narrow: tuple[str, ...] = ()

    def rules(self, canonical: str, *, tied: bool = True) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        """The rules for a parameter, and the indices in its name; `tied` is whether the head is.

        Raises:
            KeyError: the table has no entry for it.
        """
        indices = tuple(INDEX.findall(canonical))
        template = INDEX.sub("{i}", canonical)
        if template in self.tensors:
            found = self._alternatives(template)
            if not tied and template in self.free:
                found = (self.free[template], *found)
            return tuple(Direct(rule) if isinstance(rule, str) else rule for rule in found), indices
        stem, _, suffix = template.rpartition(".")
        return tuple(_of_module(rule, suffix) for rule in self._alternatives(stem)), indices

    def _alternatives(self, key: str) -> tuple[str | Rule, ...]:
        found = self.tensors[key]
        return found if isinstance(found, tuple) else (found,)

    def reason_to_pass_over(self, name: str, *, layers: int, idle: Iterable[int] = ()) -> str | None:
        """Why a tensor of a file may stay unused; None where it may not."""
        for pattern, reason in self.passed_over.items():
            if re.search(_filled(pattern.replace("{layers}", str(layers)), idle), name):
                return reason
        return None

    def carries(self, name: str, *, idle: Iterable[int] = ()) -> bool:
        """Whether a tensor of this name is saved although nothing is computed with it; `idle` layers have no other."""
        return any(re.search(_filled(pattern, idle), name) for pattern in self.carried)

    def modules(self) -> Iterator[tuple[str, str]]:
        """(canonical module, reference module) for every stem that is a module on both sides."""
        for canonical in self.tensors:
            for found in self._alternatives(canonical):
                target = found.name if isinstance(found, Transposed) else found
                if isinstance(target, str) and not canonical.endswith((".weight", ".bias")):
                    yield canonical, target


def _filled(pattern: str, idle: Iterable[int]) -> str:
    """A pattern with the layers that compute nothing in the place of `{idle}`."""
    return pattern.replace("{idle}", f"({'|'.join(map(str, idle)) or '(?!)'})")


def _of_module(rule: str | Rule, suffix: str) -> Rule:
    """The rule for a module's `weight` or `bias`."""
    if isinstance(rule, str):
        return Direct(f"{rule}.{suffix}")
    if isinstance(rule, Transposed):
        return Direct(f"{rule.name}.bias") if suffix == "bias" else Transposed(f"{rule.name}.{suffix}")
    if isinstance(rule, Joined):
        return Joined(tuple(f"{name}.{suffix}" for name in rule.names), axis=rule.axis)
    if isinstance(rule, Sliced):
        return replace(rule, name=f"{rule.name}.{suffix}")
    raise KeyError(f"{rule} says nothing about a {suffix}")
