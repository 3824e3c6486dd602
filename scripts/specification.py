"""The generated tables of docs/ARCHITECTURE_PARAMETER_SPECIFICATION.md: the grammar of n, and the families in it."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.part import PARTS, Part
from nexus_universal.parity.draws import draw_configs

DRAWS, NAMED = 14, 6
WORDS = {"NoneType": "none", "float": "real", "int": "integer", "bool": "yes/no", "str": "name"}
RIDING_ALONG = ("Text", "Origin")
"""Outside equality: they change no bit of a forward pass."""

FLOORS = {
    "parameter": "The whole",
    "fusion": "Several models in one",
    "ends": "Ends",
    "program": "Wiring",
    "stream_gate": "Gated streams",
    "mixers": "Mixers",
    "packing": "Packed projections",
    "residual_convolution": "Residual convolutions",
    "indexers": "Choices of keys",
    "differential": "Differential attention",
    "convolved_attention": "Attention of convolved queries and keys",
    "dynamic_mask": "Masks made of values",
    "sparsity": "Patterns of sparse attention",
    "recurrences": "Recurrent mixers",
    "ngrams": "Hashed n-grams",
    "feed_forward": "Feed-forward",
    "chained_experts": "Routers that remember",
    "bridge": "Bridges",
    "position": "Norms and positions",
    "part": "Numbers",
}
"""The modules of the parts, in the order in which a reader meets them."""


def grammar() -> str:
    """One line per part: its fields, with what they may be; a field with a default may be left out."""
    found: dict[str, list[type[Part]]] = {}
    for part in PARTS.values():
        found.setdefault(part.__module__.rpartition(".")[2], []).append(part)
    lines: list[str] = []
    for floor, title in FLOORS.items():
        lines += [f"**{title}**", "", "| part | what it is | fields |", "| --- | --- | --- |"]
        lines += [f"| `{part.__name__}` | {_summary(part)} | {_fields(part)} |" for part in found.pop(floor, [])]
        lines += [""]
    if found:
        sys.exit(f"FLOORS lacks the modules {', '.join(found)}")
    return "\n".join(lines)


def _summary(part: type[Part]) -> str:
    """The first sentence of a part's docstring."""
    text = " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())
    for end in (". ", ": "):
        text = text.split(end)[0]
    return text.rstrip(".:").replace("|", "\\|")


def _fields(part: type[Part]) -> str:
    hints = get_type_hints(part, None, dict(PARTS))
    found = []
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        found.append(f"`{field.name}{'?' if optional else ''}`: {_type(hints[field.name])}")
    return "; ".join(found).replace("|", "\\|") or "—"


def _type(hint: Any) -> str:
    """A type as a reader would write it."""
    if get_origin(hint) is Literal:
        return " | ".join(str(value) for value in get_args(hint))
    arguments = get_args(hint)
    if get_origin(hint) is tuple:
        return f"list of {_type(arguments[0])}" if arguments[-1] is ... else " × ".join(map(_type, arguments))
    if arguments:
        return " | ".join(_type(argument) for argument in arguments)
    return WORDS.get(hint.__name__) or str(hint.__name__)


def values() -> str:
    """Which value of which field which families take, over their drawn configs; free numbers are left out."""
    taken: dict[tuple[str, str], dict[str, set[str]]] = {}
    names = families.model_types()
    for name in names:
        family = families.find(name)
        for config in draw_configs(family, DRAWS, seed=0):
            for part, field, value in _choices(family.parameter({"model_type": name, **config})):
                taken.setdefault((part, field), {}).setdefault(value, set()).add(name)
    lines = ["| field | value | families |", "| --- | --- | --- |"]
    for part, field in sorted(taken, key=lambda key: (list(PARTS).index(key[0]), key[1])):
        options = taken[part, field]
        holders = sorted(set().union(*options.values()))
        for value, who in (
            sorted(options.items(), key=lambda item: (-len(item[1]), item[0])) if len(options) > 1 else ()
        ):
            lines.append(f"| `{part}.{field}` | {value} | {_who(sorted(who), holders)} |")
    return "\n".join(lines)


def _who(families_with: list[str], holders: list[str]) -> str:
    """Names while they are few, else those that are left out while those are few, else a number."""
    others = [name for name in holders if name not in families_with]
    if not others:
        return f"all {len(holders)}" if len(holders) > NAMED else _listed(holders)
    if len(families_with) <= NAMED:
        return _listed(families_with)
    return f"all but {_listed(others)}" if len(others) <= NAMED else f"{len(families_with)} of {len(holders)}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _choices(part: Part) -> Iterator[tuple[str, str, str]]:
    """(part, field, value) of every field below that is a choice: a word, a flag, presence, the kind of a part."""
    if type(part).__name__ in RIDING_ALONG:
        return
    for field in dataclasses.fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        children = value if isinstance(value, tuple) else (value,)
        inner = [child for child in children if isinstance(child, Part)]
        for child in dict.fromkeys(inner):
            yield from _choices(child)
        shown = _shown(value, inner)
        if shown is not None and field.name not in ("name", "source", "register", "registers"):
            yield type(part).__name__, field.name, shown


def _shown(value: Any, inner: list[Part]) -> str | None:
    """A choice in words; None for a plain number, which is no choice."""
    if isinstance(value, tuple):
        if inner or not all(isinstance(item, str) for item in value):
            return None
        return ", ".join(value) or "none"
    if inner:
        return type(inner[0]).__name__
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else None


def families_and_draws() -> str:
    """How much stands behind the table of values."""
    distinct = {
        ArchitectureParameter.from_huggingface({"model_type": name, **config}).hash
        for name in families.model_types()
        for config in draw_configs(families.find(name), DRAWS, seed=0)
    }
    return f"{len(families.model_types())} families, {DRAWS} drawn configs each: {len(distinct)} different n."
