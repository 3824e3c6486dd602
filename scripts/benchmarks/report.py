"""The figures as a table for the terminal, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = tuple[str, ...]
HEAD = ("", "reference", "A/A", "exact", "optimize()", "others")
UNITS = {"ms": 1e3, "s": 1.0, "GB": 1e-9}


def rows(model: dict[str, Any]) -> Iterator[Row]:
    """One line per quantity: the reference's figure, then each side's share of its time (or memory)."""
    loading = model.get("loading", {})
    names = {"load": ("load, the call", "s"), "logits": ("import to first logits", "s"), "memory": ("memory", "GB")}
    for quantity, (title, unit) in names.items():
        if quantity in loading:
            yield _row(title, loading[quantity], unit)
    if prefill := model.get("prefill"):
        bits = "" if prefill["same bits"] else ", OTHER BITS"
        yield _row(f"prefill, {prefill['tokens']} tokens{bits}", prefill, "ms")
    for batch, found in model.get("decode", {}).items():
        yield _row(f"token of {batch} row{'s' * (batch != '1')}, {found['prompt']} before", found["further"], "ms")
    for length, found in model.get("contexts", {}).items():
        yield _row(f"first token after {length}", found["first"], "ms")
        yield _row(f"further token after {length}", found["further"], "ms")


def uses(model: dict[str, Any], limits: dict[str, float]) -> Iterator[Row]:
    """What share of the machine's measured limits each side reaches, and what share of a prompt is products."""
    if prefill := model.get("prefill"):
        for side, found in prefill["sides"].items():
            rate = model["flops of prompt"] / found["median"]
            tokens = prefill["tokens"] / found["median"]
            yield (f"prefill, {side}", f"{tokens:,.0f} tokens/s", f"{rate / limits['FLOP/s']:.0%} of the FLOP/s")
        yield ("prefill, reference: matrix products' share", f"{prefill['share of products']:.0%} of the time", "")
    for batch, decode in model.get("decode", {}).items():
        for side, found in decode["further"]["sides"].items():
            share = f"{model['bytes read'] / found['median'] / limits['bytes/s']:.0%} of the bytes/s"
            rate = f"{int(batch) / found['median']:,.1f} tokens/s"
            yield (f"decode, {batch} row{'s' * (batch != '1')}, {side}", rate, share if batch == "1" else "")


def summary(found: dict[str, Any]) -> Iterator[Row]:
    """A line per model: each side's share of the reference's time or memory, beside the noise of the decoding."""
    yield ("", "load", "first logits", "memory", "prefill", "… optimize()", "decode", "… optimize()", "A/A")
    for model in found["models"].values():
        loading = [model["loading"][quantity]["sides"]["exact"]["ratio"] for quantity in ("load", "logits", "memory")]
        timed = (model["prefill"], model["decode"]["1"]["further"])
        fast = [each["sides"][side]["ratio"] for each in timed for side in ("exact", "optimize()")]
        yield (model["title"], *(f"{ratio:.2f} ×" for ratio in (*loading, *fast, timed[1]["a/a"])))


def _row(title: str, found: dict[str, Any], unit: str) -> Row:
    sides = found["sides"]
    others = ", ".join(f"{name} {side['ratio']:.2f} ×" for name, side in sides.items() if name not in KNOWN)
    shown = [f"{sides[name]['ratio']:.3f} ×" if name in sides else "" for name in ("exact", "optimize()")]
    median = sides["reference"]["median"] * UNITS[unit]
    return (title, f"{median:.3g} {unit}", f"{found['a/a']:.3f} ×", *shown, others)


KNOWN = ("reference", "exact", "optimize()")


def print_table(found: dict[str, Any]) -> None:
    """To the terminal, by rich."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    console.print(f"{found['machine']}\nlimits: {found['limits']}")
    for model in found["models"].values():
        table = Table(title=f"{model['title']}, bfloat16, {model['bytes'] / 1e9:.2f} GB")
        for column in HEAD:
            table.add_column(column, justify="right" if column else "left")
        for row in rows(model):
            table.add_row(*row)
        console.print(table)
        beside = Table("", "", "", show_header=False)
        for row in uses(model, found["limits"]):
            beside.add_row(*row)
        console.print(beside)


def draw(found: dict[str, Any], path: Path) -> None:
    """Per model: the time of a further token by context, of every side; a PNG of less than 100 kB."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    models = {name: model for name, model in found["models"].items() if model.get("contexts")}
    figure, grid = pyplot.subplots(2, max(len(models), 1), figsize=(3.2 * max(len(models), 1), 5), squeeze=False)
    titles = {"first": "to the first token [ms]", "further": "per further token [ms]"}
    for column, model in enumerate(models.values()):
        for line, (quantity, title) in enumerate(titles.items()):
            axes = grid[line][column]
            lengths = [int(length) for length in model["contexts"]]
            for side in next(iter(model["contexts"].values()))[quantity]["sides"]:
                values = [1e3 * each[quantity]["sides"][side]["median"] for each in model["contexts"].values()]
                axes.plot(lengths, values, marker="o", markersize=3, label=side)
            axes.set(xscale="log", yscale="log", xlabel="context [tokens]", ylabel=title if column == 0 else "")
            axes.set_xticks(lengths, [str(length) for length in lengths])
            axes.xaxis.minorticks_off()
            axes.yaxis.set_minor_formatter(ticker.LogFormatter(minor_thresholds=(2, 0.5)))
            axes.tick_params(axis="both", which="both", labelsize=7)
            if line == 0:
                axes.set_title(model["title"], fontsize=8)
    grid[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
