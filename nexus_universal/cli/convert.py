"""`nexus convert`: the same model in another form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.cli import options, output, sources

if TYPE_CHECKING:
    from nexus_universal.transformer import UniversalTransformer

Format = Literal["huggingface", "nexus"]


def convert(
    source: options.CheckpointOrUnion,
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
    capability: options.Capability = None,
) -> None:
    """Write a checkpoint anew: as safetensors, in another dtype, dequantised, or in the nexus format. Bits are kept.

    Of a union one model is written. Tokenizer and chat template come along. Written beside and renamed, so that a
    directory is never half.
    """
    hub = sources.of_hub(source, revision)
    of_union = sources.has_branches(source, capability)
    if not of_union:
        sources.local_directory(source)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out}: exists and is not empty; choose a new directory")
    given = _branch(source, capability, dtype) if of_union else _checkpoint(source, dtype, ignore_key or (), hub)
    with given as (model, directory), output.status() as progress:
        progress("writing")
        model.save_pretrained(out, format=to, family=family, tokenizer_from=directory)
    print(f"{out}: {to}, {str(model.dtype).removeprefix('torch.')}, {model.n.signature}")


@contextmanager
def _checkpoint(
    source: str, dtype: str, ignore_keys: Sequence[str], hub: dict[str, Any]
) -> Iterator[tuple[UniversalTransformer, Path]]:
    """A checkpoint's model, and the directory with its other files."""
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.checkpoint.files import find_checkpoint
        from nexus_universal.transformer import UniversalTransformer
    directory = find_checkpoint(source, **hub)
    yield UniversalTransformer.from_pretrained(directory, dtype=dtype, ignore_keys=ignore_keys), directory


@contextmanager
def _branch(source: str, capability: str | None, dtype: str) -> Iterator[tuple[UniversalTransformer, Path]]:
    """The same of a union's branch."""
    from nexus_universal.fusion.union.archive import Archive
    from nexus_universal.fusion.union.branch import branch_files, load_branch

    archive = Archive(source)
    name = capability or next(iter(archive.branches))
    model = load_branch(archive, name, dtype=dtype)
    with branch_files(archive, name) as directory:
        yield model, directory
