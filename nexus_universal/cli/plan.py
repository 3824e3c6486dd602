"""`nexus plan`: what a model takes of memory, and how it can be shared out over GPUs."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from nexus_universal.architecture.memory import Layout, Task, bytes_of, fewest, layouts
from nexus_universal.cli import options, output, sources

HEADS = ("weights", "cache", "activations", "gradients", "optimiser", "total")


def plan(
    source: options.Source = None,
    family: options.FamilyName = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="How many there are.")] = 1,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="Of one GPU: 80GB is 80·10⁹ bytes, 80GiB 80·2³⁰.")
    ] = "80GB",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16", "float64"],
        typer.Option("--dtype", help="Of weights and cache; auto: the checkpoint's."),
    ] = "auto",
    context: Annotated[
        int | None, typer.Option("--context", min=1, help="Tokens of one text; the model's context if not given.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Texts at once.")] = 1,
    train: Annotated[bool, typer.Option("--train", help="Train with AdamW instead of generating.")] = False,
    as_json: options.AsJson = False,
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
) -> None:
    """Show what a model takes of each GPU, by every way of sharing it out, and which of them fit. Reads no weights.

    Weights and cache are exact, activations estimated. What CUDA and NCCL take for themselves is not counted.
    """
    named, size = sources.one_of(source, family), bytes_of(memory)
    if source is None:
        sources.of_hub(named, revision)
        read = sources.read_family(named)
    else:
        read = sources.read_source(named, ignore_keys=tuple(ignore_key or ()), revision=revision)
    n = read.n
    chosen = n.text.dtype or "float32" if dtype == "auto" else dtype
    task = Task(dtype=chosen, context=context or n.text.context or 1, batch=batch, training=train)
    found = layouts(n, task, gpus=gpus)
    least = None if any(layout.fits(size) for layout in found) else fewest(n, task, memory=size)
    if as_json:
        output.print_json(
            {
                "source": read.name,
                "parameters": n.count().parameters,
                "dtype": task.dtype,
                "context": task.context,
                "batch": task.batch,
                "training": task.training,
                "memory": size,
                "layouts": [layout.to_data(size) for layout in found],
                "fewest": least.to_data(size) if least else None,
            }
        )
        return
    _show(read, task, found, memory=size)
    if not any(layout.fits(size) for layout in found):
        output.console().print(_remedy(found, least, memory=size))


def _show(read: sources.Read, task: Task, found: tuple[Layout, ...], *, memory: int) -> None:
    from rich.table import Table

    doing = "training on" if task.training else "generating up to"
    out = output.console()
    out.print(
        f"[bold]{read.name}[/bold] · {read.n.count().parameters:,} parameters in {task.dtype} · "
        f"{doing} {task.batch} × {task.context:,} tokens"
    )
    if read.quantised:
        out.print(f"[yellow]quantised: {read.quantised}[/yellow] (counted as it is computed, dequantised)")
    columns = [
        head for head in HEADS if task.training == (head != "cache") or head in ("weights", "activations", "total")
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("per GPU")
    for head in columns:
        table.add_column(f"~{head}" if head == "activations" else head, justify="right")
    table.add_column("fits")
    for layout in found:
        if layout.use is None:
            table.add_row(layout.name, *[""] * len(columns), f"[dim]no: {layout.refused}[/dim]")
            continue
        cells = (_size(getattr(layout.use, head)) for head in columns)
        table.add_row(layout.name, *cells, "[green]yes[/green]" if layout.fits(memory) else "[red]no[/red]")
    out.print(table)


def _remedy(found: tuple[Layout, ...], least: Layout | None, *, memory: int) -> str:
    """What would do where nothing fits."""
    leanest = min((layout for layout in found if layout.use), key=lambda layout: layout.use.total)  # type: ignore[union-attr]
    assert leanest.use is not None
    told = f"none fits: {leanest.name} would with {_size(leanest.use.total)} per GPU"
    return told + (f", or {least.name} on {least.gpus} GPUs of {_size(memory)}" if least else "")


def _size(count: int) -> str:
    """Bytes in decimal units, as `--memory` reads them, rounded up: what is shown is enough."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{-(-count * 100 // 1000**power) / 100:.2f} {unit}"
    return f"{count} B"
