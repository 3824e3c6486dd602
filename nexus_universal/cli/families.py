"""`nexus families`: which model types are known, what they are made of, and what was proven of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from nexus_universal.cli import options, output

PROVEN = Path(__file__).resolve().parent.parent / "parity" / "proven.json"
"""What scripts/prove_families.py saw last."""


def families(
    why: Annotated[
        str | None, typer.Option("--why", metavar="TYPE", help="Only this type: its verdicts, or why it is refused.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the model types that load, with their mixers, feed-forwards and verdicts (float32, bfloat16)."""
    if why is not None:
        found = explained(why)
        output.print_json(found) if as_json else print("\n".join(_lines(found)))
        return
    rows = listed()
    if as_json:
        output.print_json(rows)
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("type", "title", "mixers", "feed-forward", "verdict"):
        table.add_column(title, overflow="fold")
    for row in rows:
        verdict = " · ".join(row["verdicts"].values()) or "not yet run"
        table.add_row(row["type"], row["title"], ", ".join(row["mixers"]), ", ".join(row["feed_forwards"]), verdict)
    output.console().print(table)


def listed() -> list[dict[str, Any]]:
    """One row per model type: its title, and the kinds of its parts with the default config."""
    from nexus_universal.families import find, model_types

    proven = json.loads(PROVEN.read_text(encoding="utf-8"))["families"] if PROVEN.is_file() else {}
    rows = []
    for model_type in model_types():
        parts = [branch.part for layer in find(model_type).example().layers for _, branch in layer.all_branches()]
        kinds = {role: list(dict.fromkeys(_kind(p) for p in parts if p.role == role)) for role in ROLES}
        rows.append(
            {
                "type": model_type,
                "title": find(model_type).title,
                "mixers": kinds["mixer"],
                "feed_forwards": kinds["feed_forward"],
                "verdicts": {dtype: found["verdict"] for dtype, found in proven.get(model_type, {}).items()},
            }
        )
    return rows


def explained(model_type: str) -> dict[str, Any]:
    """What is known of one type: the reason of its refusal, or each precision's verdict, modes and notes.

    Raises:
        UnknownModelType: neither known nor refused.
    """
    from nexus_universal.architecture import registry
    from nexus_universal.families import REFUSED

    if model_type in REFUSED:
        return {"type": model_type, "refused": REFUSED[model_type]}
    family = registry.family(model_type)
    proven = json.loads(PROVEN.read_text(encoding="utf-8"))["families"] if PROVEN.is_file() else {}
    return {"type": model_type, "title": family.title, "proven": proven.get(model_type, {})}


def _lines(found: dict[str, Any]) -> Iterator[str]:
    if "refused" in found:
        yield f"{found['type']} is refused: it {found['refused']}"
        return
    yield f"{found['type']}: {found['title']}"
    for dtype, entry in found["proven"].items():
        yield f"  {dtype}: {entry['verdict']}"
        for mode, row in entry["modes"].items():
            yield f"    {mode}: {row['verdict']} (largest difference {row['max_difference']:.3g})"
        yield from (f"    {note}" for note in entry["notes"])
    if not found["proven"]:
        yield "  not yet run"


ROLES = ("mixer", "feed_forward")


def _kind(part: Any) -> str:
    """The part's name in words, with what tells layers of one model apart: a window, no rotation."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", type(part).__name__).lower()
    marks = [f"window {part.window}"] if getattr(part, "window", None) else []
    if hasattr(part, "rope") and part.rope is None:
        marks.append("no rope")
    return f"{words} ({', '.join(marks)})" if marks else words
