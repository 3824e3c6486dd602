"""`nexus analyse`: what a checkpoint's weights hold, matrix by matrix."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.cli import options, output, sources

if TYPE_CHECKING:
    from nexus_universal.fusion.study import MatrixSemantics, WeightSemantics

COLUMNS = (
    "std",
    "zeros",
    "kurtosis",
    "‖·‖F",
    "‖·‖2",
    "stable",
    "effective",
    "outliers",
    "k 90 95 99",
    "stored",
    "coded",
)


def analyse(
    source: options.Checkpoint,
    as_json: options.AsJson = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="PNG", help="Draw it into this file (needs the extra 'plot').")
    ] = None,
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
) -> None:
    """Show each matrix's moments, spectrum, ranks and entropy, one tensor in memory at a time. Runs no model.

    k 90 95 99 are the ranks that hold so much of the squared norm, and stored is what their two factors take relative
    to the matrix: above 1 nothing is saved. Coded is the size that entropy coding of exponents leaves, without loss.
    """
    hub = sources.of_hub(source, revision)
    sources.local_directory(source)
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.fusion.study import SemanticWeightAnalyzer
        from nexus_universal.fusion.study.plots import figure, plot_semantics
    if plot is not None:
        figure(1, 1)
        if not plot.absolute().parent.is_dir():
            raise CheckpointError(f"{plot}: cannot be written (No such file or directory)")
    found = SemanticWeightAnalyzer().analyze(source, ignore_keys=tuple(ignore_key or ()), **hub)
    if plot is not None:
        beside = plot.with_name(plot.name + ".part")
        plot_semantics(found, beside)
        beside.replace(plot)
    if as_json:
        print(found.to_json())
    else:
        _show(found)


def _show(found: WeightSemantics) -> None:
    from rich.table import Table

    out = output.console()
    out.print(found.signature, markup=False, soft_wrap=True)
    for kind in found.kinds:
        table = Table(title=kind, box=None, title_justify="left", title_style="bold", pad_edge=False)
        table.add_column("matrix", no_wrap=True)
        table.add_column("shape", justify="right", no_wrap=True)
        for name in COLUMNS + (("coherence",) if kind == "embedding" else ()):
            table.add_column(name, justify="right", no_wrap=True)
        for name, group in groupby(found.of_kind(kind), key=lambda matrix: matrix.name.partition("[")[0]):
            table.add_row(*_row(name, list(group)))
        out.print()
        out.print(table)


def _row(name: str, matrices: list[MatrixSemantics]) -> list[str]:
    """One matrix, or the means over all experts of one stack."""

    def mean(field: str) -> float | None:
        values = [getattr(matrix, field) for matrix in matrices]
        return None if None in values else sum(values) / len(values)

    def shown(field: str, form: str = ".3g") -> str:
        value = mean(field)
        return "—" if value is None else format(value, form)

    shape = "×".join(map(str, matrices[0].shape))
    ranks, stored = (
        " ".join(shown(f"{field}_{level}", form) for level in (90, 95, 99))
        for field, form in (("rank", ".0f"), ("stored", ".2f"))
    )
    row = [
        name if len(matrices) == 1 else f"{name} (mean of {len(matrices)})",
        shape,
        shown("std"),
        shown("sparsity", ".1%"),
        shown("kurtosis", ".2f"),
        shown("frobenius"),
        shown("spectral_norm"),
        shown("stable_rank", ".1f"),
        shown("effective_rank", ".1f"),
        shown("outliers", ".0f"),
        ranks,
        stored,
        shown("coded_share", ".0%"),
    ]
    return [*row, shown("coherence")] if matrices[0].kind == "embedding" else row
