"""`nexus union`: several checkpoints in one file, each whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import options, output, sources

if TYPE_CHECKING:
    from nexus_universal.fusion.union.pack import Packed


def union(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]SOURCE...", help="Checkpoints (directories or repo ids) and unions, named or as they are."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The new file, such as both.nxu.")],
    capability: Annotated[
        list[str] | None,
        typer.Option("--capability", metavar="NAME=WHAT", help="What a model can do, such as code=agent; repeatable."),
    ] = None,
    as_json: options.AsJson = False,
    ignore_key: options.IgnoreKeys = None,
) -> None:
    """Keep several models in one file without loss: equal tensors once, fine-tunes as differences, all of it coded.

    Afterwards the originals are not needed: `nexus verify FILE` shows that every byte is there, and `nexus generate
    FILE --capability NAME` runs one of them.
    """
    named = [_parted(text) for text in models]
    for _, source in named:
        if not sources.is_union(source):
            sources.local_directory(source)
    given, told = _by_name(named), _capabilities(capability or [])
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.fusion.union.pack import pack
    report = pack(given, out, capabilities=told, ignore_keys=ignore_key or ())
    if as_json:
        output.print_json({"file": str(out), "bytes": out.stat().st_size, "models": [vars(each) for each in report]})
    else:
        _show(out, report)


def _parted(text: str) -> tuple[str | None, str]:
    """Name and source of `code=models/b`; a path that holds = without a name in front is a source."""
    name, equals, source = text.partition("=")
    return (name, source) if equals and name.isidentifier() else (None, text)


def _by_name(named: list[tuple[str | None, str]]) -> list[str] | dict[str, str]:
    """What `pack` takes: a list, or a mapping where all have names.

    Raises:
        InputError: some have names and some have none, or one stands twice.
    """
    names = [name for name, _ in named if name is not None]
    if not names:
        return [source for _, source in named]
    if len(names) < len(named) or len(set(names)) < len(names):
        raise InputError("give every model a name of its own (NAME=SOURCE), or none of them one")
    return {name: source for name, source in named if name is not None}


def _capabilities(given: list[str]) -> dict[str, list[Any]]:
    """Capabilities by model.

    Raises:
        InputError: not NAME=WHAT, or something that no model does.
    """
    from nexus_universal.fusion.union.registry import Capability

    told: dict[str, list[Any]] = {}
    for text in given:
        name, equals, what = text.partition("=")
        if not equals:
            raise InputError(f"--capability {text!r} must be NAME=WHAT, such as code=agent")
        told.setdefault(name, []).append(Capability(what))
    return told


def _show(out: Path, report: list[Packed]) -> None:
    from rich.table import Table

    console = output.console()
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("model")
    for title in ("tensors", "there already", "as differences", "bytes", "written"):
        table.add_column(title, justify="right")
    for each in report:
        counts = (each.tensors, each.duplicates, each.against_base, each.nbytes, each.written)
        table.add_row(each.name, *(f"{count:,}" for count in counts))
    console.print(table)
    plain, size = sum(each.nbytes for each in report), out.stat().st_size
    console.print(f"{out}: {size:,} bytes, {size / max(plain, 1):.3f} of the sum · R0", markup=False, soft_wrap=True)
