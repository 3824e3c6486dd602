"""`nexus convert`: the same model in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.cli import options, output, sources

Format = Literal["huggingface", "nexus"]


def convert(
    source: options.Checkpoint,
    out: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to write; new or empty.")],
    to: Annotated[
        Format, typer.Option("--to", help="huggingface: transformers opens it; nexus: holds any n.")
    ] = "huggingface",
    family: Annotated[
        str | None,
        typer.Option(
            "--family", metavar="TYPE", help="Write another model type's config and names, if they can say n."
        ),
    ] = None,
    dtype: Annotated[
        options.Dtype, typer.Option(help="Numbers to store; auto: the checkpoint's, or what it is dequantised to.")
    ] = "auto",
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
) -> None:
    """Write a checkpoint anew: as safetensors, in another dtype, dequantised, or in the nexus format. Bits are kept.

    Tokenizer and chat template come along. Written beside and renamed, so that a directory is never half.
    """
    hub = sources.of_hub(source, revision)
    sources.local_directory(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists and is not empty; choose a new directory")
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.checkpoint.files import find_checkpoint
        from nexus_universal.transformer import UniversalTransformer
    directory = find_checkpoint(source, **hub)
    model = UniversalTransformer.from_pretrained(directory, dtype=dtype, ignore_keys=ignore_key or ())
    with output.status() as progress:
        progress("writing")
        model.save_pretrained(out, format=to, family=family, tokenizer_from=directory)
    print(f"{out}: {to}, {str(model.dtype).removeprefix('torch.')}, {model.n.signature}")
