"""`nexus verify --mutants`: how many wrong n's of a family the proof notices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from nexus_universal.architecture import registry
from nexus_universal.cli import output

if TYPE_CHECKING:
    from nexus_universal.parity.mutants import Score

COLUMNS = ("killed", "survived", "equivalent", "refused", "crashed")


def report(model_type: str, *, draws: int | None, seed: int, json_file: Path | None) -> None:
    """Print the table, and what survived by name; exit status 1 where too much did."""
    registry.family(model_type)
    with output.status() as progress:
        progress("loading torch and the reference library")
        from nexus_universal.parity.mutants import mutation_score

        score = mutation_score(model_type, draws=draws, seed=seed, progress=progress)
    if json_file is not None:
        output.write_file(json_file, json.dumps(score.to_data(), indent=2, ensure_ascii=False))
    if json_file != Path("-"):
        _show(score)
    if not score.enough:
        raise typer.Exit(1)


def _show(score: Score) -> None:
    from rich.table import Table

    from nexus_universal.parity.mutations import KINDS

    out = output.console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("changed")
    for title in COLUMNS:
        table.add_column(title, justify="right")
    for kind, counted in score.table("kind").items():
        table.add_row(KINDS[kind], *(str(counted.get(state, 0)) for state in COLUMNS))
    out.print(table)
    for outcome in (*score.of("crashed"), *score.of("survived"), *score.of("equivalent")):
        why = f": {outcome.why}" if outcome.why else ""
        out.print(f"{outcome.state} {outcome.title}{why}", markup=False, soft_wrap=True)
    colour = "green" if score.enough else "red"
    out.print(
        f"{score.family}: [bold {colour}]{score.noticed:.1%}[/bold {colour}] of {score.alive} mutants noticed "
        f"(at least {score.least:.0%}), {score.beyond_floor:.1%} beyond the floor",
        soft_wrap=True,
    )
