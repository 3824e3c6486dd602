"""`nexus merge`: several models made one, and what is left of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.cli import options, output

Format = Literal["auto", "huggingface", "nexus"]


def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file in mergekit's words.")],
    out: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to write; new or empty.")],
    text: Annotated[
        Path | None,
        typer.Option("--text", metavar="FILE", help="Text to measure retention on; else random tokens."),
    ] = None,
    to: Annotated[
        Format, typer.Option("--to", help="auto: huggingface where the family can say the result, else nexus.")
    ] = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Merge models by a recipe, tensor by tensor, and print how much of each of them is left.

    Everything is checked before a tensor is read. Memory stays below three times the largest tensor.
    """
    for file in filter(None, (recipe, text)):
        if not file.is_file():
            raise InputError(f"{file}: no such file")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists and is not empty; choose a new directory")
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.fusion.merging.run import merge as carried_out
    measured_on = text.read_text(encoding="utf-8", errors="replace") if text else None
    certificate = carried_out(recipe, out, text=measured_on, format=to)
    print(certificate.to_json() if as_json else f"{certificate}\n{out}")
