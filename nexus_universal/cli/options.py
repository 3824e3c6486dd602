"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]

Source = Annotated[
    str | None,
    typer.Argument(metavar="SOURCE", help="A checkpoint's directory, a repo id (owner/name), or a config.json."),
]
FamilyName = Annotated[
    str | None, typer.Option("--family", metavar="TYPE", help="A model type instead of a source, such as qwen3.")
]
IgnoreKeys = Annotated[
    list[str] | None,
    typer.Option("--ignore-key", metavar="KEY", help="A config key to pass over although it is unknown; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
