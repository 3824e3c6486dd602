"""Paths through n: `layers.3.attention.heads`, `layers.*.mixer.window`, `embedding.scale`.

A path may skip what a reader would skip: inside a layer a branch is found by its name (or as `mixer`,
`feed_forward`), and inside a branch the fields of its part are found directly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.program import Branch, Program, Step

N = TypeVar("N", bound=Part)


def fields_of(value: Part) -> dict[str, Any]:
    """The fields of a part by name, in declaration order."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # type: ignore[arg-type]


def anchor(step: Step, index: int) -> str:
    """What a step is called in paths: after its first branch, or after its place where it has none."""
    return f"{step.branches[0].name}_step" if step.branches else f"step_{index}"


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, string and None of n with its readable path; parts and tuples of parts are descended into.

    `is` names a part's class and `steps` the branches of each step: they show in a diff and cannot be replaced.
    """
    if isinstance(value, Program):
        if value.share is not None:
            yield f"{path}.share", value.share
        if value.detached:
            yield f"{path}.detached", True
        yield f"{path}.steps", tuple("+".join(branch.name for branch in step.branches) for step in value.steps)
        for index, step in enumerate(value.steps):
            for name, item in fields_of(step).items():
                if name == "branches":
                    for branch in step.branches:
                        yield from leaves(branch, f"{path}.{branch.name}")
                else:
                    yield from leaves(item, f"{path}.{anchor(step, index)}.{name}")
    elif isinstance(value, Branch):
        for name, item in fields_of(value).items():
            if name == "part":
                yield f"{path}.is", type(item).__name__
                yield from leaves(item, path) if isinstance(item, Program) else _fields(item, path)
            elif name != "name":
                yield from leaves(item, f"{path}.{name}")
    elif isinstance(value, Part):
        if path and not path.split(".")[-1].isdigit():
            yield f"{path}.is", type(value).__name__
        yield from _fields(value, path)
    elif isinstance(value, tuple) and any(isinstance(item, Part) for item in value):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _fields(value: Part, path: str) -> Iterator[tuple[str, Any]]:
    for name, item in fields_of(value).items():
        yield from leaves(item, f"{path}.{name}" if path else name)


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

    result = _descend(root, path.split("."), put)
    if not hits[0]:
        raise InvalidArchitecture(f"n has no field {path!r}{_suggest(root, path)}")
    return result


def with_parts(n: N, change: Callable[[Any], Part]) -> N:
    """n with every branch's part changed, those of nested programs among them."""

    def program(old: Program) -> Program:
        steps = (
            dataclasses.replace(step, branches=tuple(dataclasses.replace(b, part=part(b.part)) for b in step.branches))
            for step in old.steps
        )
        return dataclasses.replace(old, steps=tuple(steps))

    def part(old: Any) -> Any:
        return program(old) if isinstance(old, Program) else change(old)

    return dataclasses.replace(n, layers=tuple(program(layer) for layer in n.layers))  # type: ignore[attr-defined, type-var]


def _suggest(root: Part, path: str) -> str:
    head = path.split(".")[0]
    known = list(fields_of(root))
    if head not in known:
        return f" (known: {', '.join(known)})"
    layers = getattr(root, "layers", ())
    if head == "layers" and layers:
        return f" (a layer has: {', '.join(branch.name for branch in layers[0].branches())}, steps, share)"
    return ""


def _descend(value: Any, keys: list[str], put: Callable[[Any], Any]) -> Any:
    if not keys:
        return put(value)
    key, rest = keys[0], keys[1:]
    if isinstance(value, tuple):
        if key == "*":
            return tuple(_descend(item, rest, put) for item in value)
        if key.lstrip("-").isdigit() and -len(value) <= int(key) < len(value):
            index = int(key) % len(value)
            return (*value[:index], _descend(value[index], rest, put), *value[index + 1 :])
        return value
    if isinstance(value, Part):
        if key in fields_of(value):
            changed = _descend(getattr(value, key), rest, put)
            return dataclasses.replace(value, **{key: changed})  # type: ignore[type-var]
        if isinstance(value, Branch):
            return dataclasses.replace(value, part=_descend(value.part, keys, put))
        if isinstance(value, Program):
            return _into_steps(value, key, rest, put)
    return value


def _into_steps(program: Program, key: str, rest: list[str], put: Callable[[Any], Any]) -> Program:
    """Into the step that `key` anchors, or into the branch of that name, or into all of that role if none has it."""
    by_name = key in [branch.name for branch in program.branches()]

    def change(step: Step, index: int) -> Step:
        if key == anchor(step, index):
            return _descend(step, rest, put)
        meant = [key == (branch.name if by_name else branch.part.role) for branch in step.branches]
        branches = (_descend(b, rest, put) if hit else b for b, hit in zip(step.branches, meant, strict=True))
        return dataclasses.replace(step, branches=tuple(branches))

    steps = tuple(change(step, index) for index, step in enumerate(program.steps))
    return dataclasses.replace(program, steps=steps)


def ranges(indices: tuple[int, ...]) -> str:
    """Ascending indices in short: 0-4,6,8-9."""
    pieces: list[str] = []
    start = previous = indices[0]
    for index in (*indices[1:], None):
        if index is not None and index == previous + 1:
            previous = index
            continue
        pieces.append(str(start) if start == previous else f"{start}-{previous}")
        if index is not None:
            start = previous = index
    return ",".join(pieces)
