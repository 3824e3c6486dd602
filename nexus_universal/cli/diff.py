"""`nexus diff`: where two models' n differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ABSENT, Difference
from nexus_universal.architecture.paths import ranges
from nexus_universal.architecture.serial import TAG, to_data
from nexus_universal.cli import options, output, sources

Named = Annotated[str, typer.Argument(help="A directory, a repo id, a config.json, or a model type such as qwen3.")]


def diff(
    a: Named,
    b: Named,
    as_json: options.AsJson = False,
    ignore_key: options.IgnoreKeys = None,
    revision: Annotated[
        list[str] | None,
        typer.Option(
            "--revision",
            metavar="REV",
            help="A branch, tag or commit of the repos on the hub; given twice, a's and b's.",
        ),
    ] = None,
) -> None:
    """List where two models' n differ; equal differences of several layers stand in one line. Reads no weights."""
    ignored = tuple(ignore_key or ())
    left, right = (
        sources.read_source(name, ignore_keys=ignored, revision=chosen)
        for name, chosen in zip((a, b), _revisions((a, b), revision or []), strict=True)
    )
    changes = left.n.diff(right.n)
    if as_json:
        output.print_json(
            {
                "a": {"source": left.name, "signature": left.n.signature},
                "b": {"source": right.name, "signature": right.n.signature},
                "equal": not changes,
                "differences": [_as_data(change) for change in changes],
            }
        )
        return
    from rich.markup import escape
    from rich.table import Table

    out = output.console()
    out.print(f"a  {left.n.signature}", markup=False, soft_wrap=True)
    out.print(f"b  {right.n.signature}", markup=False, soft_wrap=True)
    if not changes:
        out.print("\nequal: the same n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("where", "a", "b"):
        table.add_column(title, overflow="fold")
    rows = gathered(changes)
    for row in rows:
        table.add_row(*map(escape, row))
    out.print()
    out.print(table)
    out.print(f"\n{len(rows)} difference{'s' if len(rows) != 1 else ''}")


def _revisions(names: Sequence[str], given: Sequence[str]) -> Sequence[str | None]:
    """One for each side; a single one is that of every repo among them.

    Raises:
        InputError: more than two.
    """
    if len(given) > 2:
        raise InputError(f"--revision is given {len(given)} times, and there are two sides")
    if len(given) == 2:
        return given
    repos = [sources.may_be_repo(name) for name in names]
    return [given[0] if given and (repo or not any(repos)) else None for repo in repos]


def gathered(changes: Sequence[Difference]) -> list[tuple[str, str, str]]:
    """(where, a, b) in words. A part that only one side has, or of another kind, stands in one line with its fields."""
    rows: list[tuple[str, str, str]] = []
    done: set[int] = set()
    for change in changes:
        if id(change) in done:
            continue
        part = change.path.removesuffix(f".{TAG}")
        if part == change.path:
            rows.append((where(change), str(change.left), str(change.right)))
            continue
        group = [c for c in changes if c.layers == change.layers and f"{c.path}.".startswith(f"{part}.")]
        done.update(map(id, group))
        left = _part_line(change.left, part, {c.path: c.left for c in group})
        right = _part_line(change.right, part, {c.path: c.right for c in group})
        rows.append((where(replace(change, path=part)), left, right))
    return rows


def _part_line(kind: Any, path: str, values: dict[str, Any]) -> str:
    """A part's kind with those of its fields that say something."""
    fields = [
        f"{key.removeprefix(path + '.')}={value}"
        for key, value in values.items()
        if key != path
        and not key.endswith(f".{TAG}")
        and not any(value is silent for silent in (None, False, (), ABSENT))
    ]
    return str(None) if kind is ABSENT else " ".join([str(kind), *fields])


def where(change: Difference) -> str:
    """The path of a difference, its layers in short."""
    return f"layers.{ranges(change.layers)}.{change.path}" if change.layers else change.path


def _as_data(change: Difference) -> dict[str, Any]:
    """A field that one side lacks is left out on that side."""
    sides = {"a": change.left, "b": change.right}
    return {
        "path": change.path,
        "layers": list(change.layers),
        **{name: to_data(value) for name, value in sides.items() if value is not ABSENT},
    }
