"""n as JSON, exactly: every part tagged by its class name, defaults left out, layers written in runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from functools import cache
from typing import Any

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.part import PARTS, Part

TAG = "is"
LONGEST_PATTERN = 64


def runs(items: tuple[Any, ...]) -> list[tuple[int, tuple[Any, ...]]]:
    """Split a sequence into (times, pattern) runs, longest coverage first: pure notation."""
    found: list[tuple[int, tuple[Any, ...]]] = []
    at = 0
    while at < len(items):
        best = (1, 1)
        for period in range(1, min(LONGEST_PATTERN, (len(items) - at) // 2) + 1):
            times = 1
            while items[at + times * period : at + (times + 1) * period] == items[at : at + period]:
                times += 1
            if times > 1 and times * period > best[0] * best[1]:
                best = (times, period)
        times, period = best
        if times == 1 and found and found[-1][0] == 1:
            found[-1] = (1, found[-1][1] + items[at : at + 1])
        else:
            found.append((times, items[at : at + period]))
        at += times * period
    return found


def to_data(value: Any) -> Any:
    """Plain dicts, lists, numbers and strings for a part, defaults left out."""
    if isinstance(value, Part):
        data: dict[str, Any] = {TAG: type(value).__name__}
        hints = type_hints(type(value))
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            item = _as_declared(getattr(value, field.name), hints[field.name])
            if not (field.default is not dataclasses.MISSING and _same(item, field.default)):
                data[field.name] = _layers_data(item) if field.name == "layers" else to_data(item)
        return data
    if isinstance(value, tuple):
        return [to_data(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return {"infinity": 1 if value > 0 else -1}
    return value


def _as_declared(item: Any, hint: Any) -> Any:
    """1 where a float is declared becomes 1.0, and -0.0 becomes 0.0: equal parts must have equal JSON."""
    if type(item) is float:
        return item + 0.0
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(item) is int:
        return float(item) if float in options and int not in options else item
    if isinstance(item, tuple):
        inner = next((typing.get_args(o) for o in options if typing.get_origin(o) is tuple), ())
        if len(inner) == 2 and inner[1] is Ellipsis:
            return tuple(_as_declared(entry, inner[0]) for entry in item)
        if len(inner) == len(item):
            return tuple(_as_declared(entry, want) for entry, want in zip(item, inner, strict=True))
    return item


def _same(item: Any, default: Any) -> bool:
    return item == default and type(item) is type(default)


def _layers_data(layers: tuple[Any, ...]) -> list[Any]:
    written: list[Any] = []
    for times, pattern in runs(layers):
        if times == 1:
            written += [to_data(program) for program in pattern]
        else:
            written.append({"repeat": times, "pattern": _layers_data(pattern)})
    return written


def from_data(data: Any, hint: Any = None, *, where: str = "n") -> Any:
    """The part that `to_data` wrote.

    Raises:
        InvalidArchitecture: an unknown part or field, or a value of the wrong shape, named by its path.
    """
    if data in ({"infinity": 1}, {"infinity": -1}):
        return math.inf * data["infinity"]
    if isinstance(data, dict):
        tag = data.get(TAG)
        cls = PARTS.get(tag) if isinstance(tag, str) else None
        if cls is None:
            raise InvalidArchitecture(f"{where}.{TAG} = {tag!r} (known: {', '.join(sorted(PARTS))})")
        hints = type_hints(cls)
        unknown = [key for key in data if key != TAG and key not in hints]
        if unknown:
            raise InvalidArchitecture(f"{where}.{unknown[0]}: {cls.__name__} has no such field")
        values = {k: from_data(v, hints[k], where=f"{where}.{k}") for k, v in data.items() if k != TAG}
        try:
            return cls(**values)
        except TypeError as error:
            raise InvalidArchitecture(f"{where}: {error}") from None
    if isinstance(data, list):
        items: list[Any] = []
        for index, item in enumerate(data):
            if isinstance(item, dict) and "repeat" in item:
                times, pattern = item["repeat"], from_data(item.get("pattern"), where=f"{where}.{index}.pattern")
                if type(times) is not int or times < 1 or not isinstance(pattern, tuple):
                    raise InvalidArchitecture(f"{where}.{index}.repeat = {times!r} must be how often a pattern comes")
                items += pattern * times
            else:
                items.append(from_data(item, where=f"{where}.{index}"))
        return tuple(items)
    return _as_declared(data, hint)


@cache
def type_hints(cls: type[Part]) -> dict[str, Any]:
    """The resolved annotations of a part's fields."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}  # type: ignore[arg-type]


def canonical_hash(value: Part) -> str:
    """A short hash of the canonical JSON: equal for equal parts, however they were written."""
    text = json.dumps(to_data(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
