"""An n as a tree, its layers in runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.serial import TAG, to_data

if TYPE_CHECKING:
    from rich.tree import Tree

SHOWN_NUMBERS = 6


def tree(n: ArchitectureParameter) -> Tree:
    """Every part with what in it is not its default; a number of equal layers stands once, with their indices."""
    from rich.tree import Tree

    data = to_data(n)
    root = Tree(f"[bold]{len(n.layers)} layers, width {n.d_hidden}, vocabulary {n.d_vocab}[/bold]")
    _add(root, "embedding", data["embedding"])
    _add_layers(root, data["layers"], start=0)
    for name in ("final_norm", "head", "registers", "streams"):
        if data.get(name):
            _add(root, name, data[name])
    return root


def _add_layers(node: Tree, entries: list[dict[str, Any]], *, start: int) -> None:
    at = start
    for entry in entries:
        times, pattern = (entry["repeat"], entry["pattern"]) if "repeat" in entry else (1, [entry])
        period = sum(map(_length, pattern))
        last = at + times * period - 1
        place = f"layer {at}" if last == at else f"layers {at}–{last}"
        if len(pattern) > 1:
            inner = node.add(f"[bold]{place}[/bold]: {times} × {period} layers, the first {period}:")
            _add_layers(inner, pattern, start=at)
        else:
            _add_program(node.add(f"[bold]{place}[/bold]"), pattern[0])
        at = last + 1


def _length(entry: dict[str, Any]) -> int:
    return entry["repeat"] * sum(map(_length, entry["pattern"])) if "repeat" in entry else 1


def _add_program(node: Tree, program: dict[str, Any]) -> None:
    if extra := _scalars(program):
        node.add(extra)
    for step in program["steps"]:
        for branch in step["branches"]:
            inner = _add(node, branch["name"], branch["part"])
            for name in ("input_norm", "output_norm"):
                if branch.get(name):
                    _add(inner, name, branch[name])
            if extra := _scalars(branch, without=("name",)):
                inner.add(extra)
        reads = f" · reads {_scalars(step['read'])}" if step.get("read") else ""
        norm = f" · norm {_scalars(step['norm'])}" if step.get("norm") else ""
        writes = ", ".join(map(_write, step["writes"]))
        node.add(f"[dim]{writes}{norm}{reads}[/dim]")
        if step.get("connection"):
            _add(node, "connection", step["connection"])


def _write(write: dict[str, Any]) -> str:
    terms = " + ".join(
        (f"{term['scale']:g}·" if term.get("scale") is not None else "") + term["source"] for term in write["terms"]
    )
    norm = f"norm({terms}) {_scalars(write['norm'])}" if write.get("norm") else terms
    extra = _scalars(write, without=("register",))
    return f"{write.get('register', 'x')} ← {norm}{f' ({extra})' if extra else ''}"


def _add(node: Tree, name: str, value: Any) -> Tree:
    """A part under its name: its scalars in the line, its parts below."""
    if isinstance(value, list):
        inner = node.add(f"{name}")
        for place, item in enumerate(value):
            _add(inner, str(place), item)
        return inner
    if value[TAG] == "Program":
        inner = node.add(f"{name}: program")
        _add_program(inner, value)
        return inner
    inner = node.add(_line(name, value))
    for key, item in value.items():
        if _is_parts(item):
            if isinstance(item, dict) and not any(map(_is_parts, item.values())):
                inner.add(_line(key, item))
            else:
                _add(inner, key, item)
    return inner


def _line(name: str, part: dict[str, Any]) -> str:
    return f"{name}: [cyan]{part[TAG]}[/cyan] {_scalars(part)}".rstrip()


def _is_parts(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_parts, value))
    return isinstance(value, dict) and TAG in value


def _scalars(part: dict[str, Any], *, without: tuple[str, ...] = ()) -> str:
    """Numbers, words and short lists of a part, as `key=value`."""
    found = []
    for key, value in part.items():
        if key == TAG or key in without or value is None or _is_parts(value):
            continue
        if key in ("steps", "branches", "writes", "terms"):
            continue
        found.append(f"{key}={_value(value)}")
    return " ".join(found)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        more = f",… ({len(value)})" if len(value) > SHOWN_NUMBERS else ""
        return ",".join(map(_value, value[:SHOWN_NUMBERS])) + more
    return f"{value:g}" if isinstance(value, float) else str(value)
