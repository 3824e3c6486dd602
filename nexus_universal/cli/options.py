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
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="REV", help="A branch, tag or commit of a repo on the hub.")
]
Checkpoint = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A checkpoint's directory or a repo id (owner/name).")
]
CheckpointOrUnion = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A checkpoint's directory, a repo id (owner/name) or a union file.")
]
Capability = Annotated[
    str | None, typer.Option("--capability", metavar="NAME", help="Which model of a union file; else the first.")
]
RoutedCapability = Annotated[
    str | None,
    typer.Option(
        "--capability", metavar="NAME", help="Which model of a union file, or what it can do; else its router chooses."
    ),
]
ComputeDtype = Annotated[Dtype, typer.Option("--dtype", help="Numbers to compute in; auto: the checkpoint's.")]
Device = Annotated[str, typer.Option("--device", help="Where to compute, such as cpu or cuda.")]
MaxNewTokens = Annotated[int | None, typer.Option("--max-new-tokens", help="At most so many new tokens.")]
Sample = Annotated[
    bool | None, typer.Option("--sample/--greedy", help="Draw, or take the likeliest; else as the checkpoint says.")
]
Temperature = Annotated[float | None, typer.Option("--temperature", help="Below 1 sharper, above 1 flatter.")]
TopK = Annotated[int | None, typer.Option("--top-k", help="Draw from the K likeliest; 0: from all.")]
TopP = Annotated[float | None, typer.Option("--top-p", help="Draw from the likeliest that sum up to P.")]
MinP = Annotated[
    float | None, typer.Option("--min-p", help="Draw from what is at least P times as likely as the best.")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option("--repetition-penalty", help="Above 1: avoid ids already in the text.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes drawing repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
