"""`nexus inspect`: what a model's n is, what it costs, and its equations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from nexus_universal.cli import options, output, sources


def inspect(
    source: options.Source = None,
    family: options.FamilyName = None,
    as_json: options.AsJson = False,
    context: Annotated[
        int | None, typer.Option(min=1, help="Positions that the counted token sees; the model's context if not given.")
    ] = None,
    formula: Annotated[
        bool, typer.Option("--formula/--no-formula", help="Show the equations of this very model.")
    ] = True,
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
) -> None:
    """Show a model's n: its parts, its layers in runs, what it costs and its equations. Reads no weights."""
    named = sources.one_of(source, family)
    if source is None:
        sources.of_hub(named, revision)
        read = sources.read_family(named)
    else:
        read = sources.read_source(named, ignore_keys=tuple(ignore_key or ()), revision=revision)
    positions = context or read.n.text.context or 1
    if as_json:
        output.print_json(_as_data(read, positions, with_formula=formula))
    else:
        _show(read, positions, with_formula=formula)


def _as_data(read: sources.Read, context: int, *, with_formula: bool) -> dict[str, Any]:
    from nexus_universal.architecture.serial import to_data

    n = read.n
    equations = n.formula() if with_formula else None
    return {
        "source": read.name,
        "family": n.origin.family,
        "signature": n.signature,
        "hash": n.hash,
        "quantised": read.quantised,
        "ignored_keys": list(n.origin.ignored_keys),
        "left_out": sources.left_out(n),
        "count": asdict(n.count(context=context)),
        **({"formula": {"unicode": equations.unicode, "latex": equations.latex}} if equations else {}),
        "n": {key: value for key, value in to_data(n).items() if key != "origin"},
    }


def _show(read: sources.Read, context: int, *, with_formula: bool) -> None:
    from rich.table import Table

    from nexus_universal.cli.tree import tree

    n, out = read.n, output.console()
    out.print(
        f"[bold]{read.name}[/bold]" + (f" · {n.origin.family}" if n.origin.family not in (None, read.name) else "")
    )
    out.print(n.signature, markup=False, soft_wrap=True)
    if read.quantised:
        out.print(f"[yellow]quantised: {read.quantised}[/yellow] (n and the counts are those of the model before it)")
    if n.origin.ignored_keys:
        out.print(f"[yellow]ignored keys: {', '.join(n.origin.ignored_keys)}[/yellow]")
    for part in sources.left_out(n):
        out.print(f"[yellow]not part of n: {part}, whose tensors are passed over[/yellow]")
    out.print()
    out.print(tree(n))
    out.print()
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    for name, value in _rows(read, context):
        table.add_row(name, value)
    out.print(table)
    if with_formula:
        out.print()
        out.print(n.formula().unicode, markup=False, soft_wrap=True)


def _rows(read: sources.Read, context: int) -> list[tuple[str, str]]:
    """Counts, and what the checkpoint says about its text."""
    n = read.n
    count, text = n.count(context=context), n.text
    rows = [
        ("parameters", f"{count.parameters:,}"),
        ("active per token", f"{count.active_parameters:,}"),
        (f"FLOPs per token at {context:,}", f"{count.flops_per_token:,}"),
        (f"cache bytes per token ({count.dtype})", f"{count.cache_bytes_per_token:,}"),
        (f"fixed state bytes ({count.dtype})", f"{count.fixed_state_bytes:,}"),
        ("context", "—" if text.context is None else f"{text.context:,}"),
        ("bos · eos · pad", f"{_ids(text.bos)} · {_ids(*text.eos)} · {_ids(text.pad)}"),
    ]
    return rows


def _ids(*ids: int | None) -> str:
    return ", ".join(str(token) for token in ids if token is not None) or "—"
