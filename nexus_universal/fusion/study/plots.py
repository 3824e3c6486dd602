"""Pictures of what an analysis found, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.study.analyser import WeightSemantics

SIZE_INCHES = 12.0, 8.0


def figure(rows: int, columns: int, *, size: tuple[float, float] = SIZE_INCHES) -> tuple[Any, Any]:
    """An empty figure and its axes, drawn without a display.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib: pip install 'nexus-universal[plot]'") from None
    drawn = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(rows, columns, squeeze=False)


def plot_semantics(found: WeightSemantics, path: Path) -> None:
    """Stored ratios, effective ranks, coded sizes and tails of all matrices, in the model's order, as a PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    drawn, axes = figure(2, 2)
    (stored, ranks), (coded, tails) = axes
    order = {matrix.name: index for index, matrix in enumerate(found.matrices)}
    for kind in found.kinds:
        matrices = found.of_kind(kind)
        at = [order[matrix.name] for matrix in matrices]
        stored.plot(at, [matrix.stored_95 for matrix in matrices], ".", label=kind)
        ranks.plot(at, [matrix.effective_rank / min(matrix.shape) for matrix in matrices], ".", label=kind)
        coded.plot(at, [matrix.coded_share or float("nan") for matrix in matrices], ".", label=kind)
        tails.plot(at, [matrix.kurtosis for matrix in matrices], ".", label=kind)
    stored.axhline(1.0, color="black", linewidth=0.8)
    titles = {
        stored: "stored size at 95 % of the energy (above 1: larger than the matrix)",
        ranks: "effective rank / rank",
        coded: "size with coded exponents",
        tails: "excess kurtosis",
    }
    for axis, title in titles.items():
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("matrix")
    stored.legend()
    drawn.suptitle(found.signature, fontsize=9, wrap=True)
    drawn.savefig(path, dpi=110, format="png")
