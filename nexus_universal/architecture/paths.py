"""Paths through n: `layers.3.attention.heads`, `layers.*.mixer.window`, `embedding.scale`.

A path may skip what a reader would skip: inside a layer a branch is found by its name (or as `mixer`, `feed_forward`), and
inside a branch the fields of its part are found directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.program import Branch, Program


def fields_of(value: Part) -> dict[str, Any]:
    """The fields of a part by name, in declaration order."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, string and None of n with its readable path; parts and tuples of parts are descended into."""
    if isinstance(value, Program):
        if value.share is not None:
            yield f"{path}.share", value.share
        for index, step in enumerate(value.steps):
            anchor = step.branches[0].name if step.branches else f"steps.{index}"
            for name, item in fields_of(step).items():
                if name == "branches":
                    for branch in step.branches:
                        yield from leaves(branch, f"{path}.{branch.name}")
                else:
                    yield from leaves(item, f"{path}.{anchor}_step.{name}")
    elif isinstance(value, Branch):
        for name, item in fields_of(value).items():
            if name == "part":
                yield f"{path}.part", type(item).__name__
                yield from leaves(item, path)
            elif name != "name":
                yield from leaves(item, f"{path}.{name}")
    elif isinstance(value, Part):
        if path and not path.split(".")[-1].isdigit():
            yield f"{path}.is", type(value).__name__
        for name, item in fields_of(value).items():
            yield from leaves(item, f"{path}.{name}" if path else name)
    elif isinstance(value, tuple) and any(isinstance(item, Part) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def replaced(root: Part, path: str, new: Any) -> Any:
    """A copy of `root` with `new` at every place that `path` names.

    `*` stands for every index; behind it, parts that lack the field are left as they are.

    Raises:
        InvalidArchitecture: the path names nothing.
    """
    hits = [0]

    def put(_: Any) -> Any:
        hits[0] += 1
        return new

    result = _descend(root, path.split("."), put, lenient="*" in path)
    if not hits[0]:
        raise InvalidArchitecture(f"n has no field {path!r}{_suggest(root, path)}")
    return result


def _suggest(root: Part, path: str) -> str:
    head = path.split(".")[0]
    known = list(fields_of(root))
    if head not in known:
        return f" (known: {', '.join(known)})"
    layers = getattr(root, "layers", ())
    if head == "layers" and layers:
        return f" (a layer has: {', '.join(branch.name for branch in layers[0].branches())}, steps, share)"
    return ""


def _descend(value: Any, keys: list[str], put: Callable[[Any], Any], *, lenient: bool) -> Any:
    if not keys:
        return put(value)
    key, rest = keys[0], keys[1:]
    if isinstance(value, tuple):
        if key == "*":
            return tuple(_descend(item, rest, put, lenient=lenient) for item in value)
        if key.lstrip("-").isdigit() and -len(value) <= int(key) < len(value):
            index = int(key) % len(value)
            changed = _descend(value[index], rest, put, lenient=lenient)
            return (*value[:index], changed, *value[index + 1 :])
        return value
    if isinstance(value, Part):
        if key in fields_of(value):
            changed = _descend(getattr(value, key), rest, put, lenient=lenient)
            return dataclasses.replace(value, **{key: changed})  # type: ignore[type-var]
        if isinstance(value, Branch):
            return dataclasses.replace(value, part=_descend(value.part, keys, put, lenient=lenient))
        if isinstance(value, Program):
            return _into_branches(value, key, rest, put, lenient=lenient)
    return value


def _into_branches(
    program: Program, key: str, rest: list[str], put: Callable[[Any], Any], *, lenient: bool
) -> Program:
    def change(branch: Branch) -> Branch:
        if key in (branch.name, branch.part.role):
            return _descend(branch, rest, put, lenient=lenient)
        return branch

    steps = tuple(
        dataclasses.replace(step, branches=tuple(change(branch) for branch in step.branches)) for step in program.steps
    )
    return dataclasses.replace(program, steps=steps)
