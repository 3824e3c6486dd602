"""Truncation, whitening and inflation of trained checkpoints: what is stored, and what is left of the model.

python scripts/experiments/compression.py
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from common import CHECKPOINTS, SEEDS, experiment, show, spread, trained, unseen_text

from nexus_universal.fusion.study import SemanticWeightAnalyzer, inflate_pca, rate_retention
from nexus_universal.fusion.study.matrices import compressible

SHARES = (0.9, 0.75, 0.5, 0.25, 0.1)
ROWS = 12
DIMENSION = 384
INFLATED = "qwen3_tiny"


def curves(name: str) -> list[dict[str, Any]]:
    """One point per method and share, a run per seed: text to measure by and text to calibrate by are drawn by it."""
    model, runs = trained(name), []
    for seed in SEEDS:
        text = unseen_text(name, 2 * ROWS, seed=seed)
        points, _ = rate_retention(model, text[:ROWS], shares=SHARES, calibration=text[ROWS:])
        runs.append(points)
    return [
        {"model": name, "method": first.method, "asked": share, "stored": first.stored,
         "stored_of_model": first.stored_of_model, "runs": [asdict(points[at].fidelity) for points in runs]}
        for at, (first, share) in enumerate(zip(runs[0], 2 * SHARES, strict=True))
    ]  # fmt: skip


def inflations() -> list[dict[str, Any]]:
    """Every kind of inflation at three levels of energy."""
    model, rows = trained(INFLATED), []
    for kind in ("orthonormal", "generic", "nonlinear"):
        for energy in (0.9, 0.95, 0.99):
            runs = []
            for seed in SEEDS:
                text = unseen_text(INFLATED, ROWS, seed=seed)
                found = inflate_pca(model, DIMENSION, kind, energy, ids=text, seed=seed, report=lambda _: None)
                runs.append(
                    {
                        "components": sum(each.components for each in found.matrices),
                        "direct_components": sum(each.direct_components for each in found.matrices),
                        "stored": found.stored,
                        "error": found.error,
                        "direct_error": found.direct_error,
                        "inflated": asdict(found.inflated),
                        "direct": asdict(found.direct),
                    }
                )
            rows.append({"kind": kind, "energy": energy, "runs": runs})
    return rows


def ranks(name: str) -> dict[str, Any]:
    """What ranks of the layers' matrices hold so much energy, and what storing them takes: means over the matrices."""
    model = trained(name)
    known = set(compressible(model))
    found = [each for each in SemanticWeightAnalyzer().analyze(model).matrices if each.name.partition("[")[0] in known]
    of_rank = {
        level: sum(getattr(each, f"rank_{level}") / min(each.shape) for each in found) / len(found)
        for level in (90, 95, 99)
    }
    size = sum(each.shape[0] * each.shape[1] for each in found)
    stored = {
        level: sum(getattr(each, f"stored_{level}") * each.shape[0] * each.shape[1] for each in found) / size
        for level in (90, 95, 99)
    }
    return {"model": name, "matrices": len(found), "rank": of_rank, "stored": stored}


def run() -> dict[str, Any]:
    """Curves, inflations and ranks."""
    points = [point for name in CHECKPOINTS for point in curves(name)]
    show("truncation", ("model", "method", "stored", "KL", "flips", "accuracy", "loss"), map(curve_row, points))
    inflated = inflations()
    header = ("inflation", "energy", "components", "stored", "error", "direct", "KL", "KL direct", "accuracy")
    show(f"inflate + PCA, {INFLATED}, D = {DIMENSION}", header, map(inflation_row, inflated))
    return {"points": points, "inflations": inflated, "dimension": DIMENSION, "inflated_model": INFLATED,
            "ranks": [ranks(name) for name in CHECKPOINTS]}  # fmt: skip


def curve_row(point: dict[str, Any]) -> tuple[str, ...]:
    """One line of the truncation table."""
    runs = point["runs"]
    scores = (
        spread([run["accuracy"][0] for run in runs], ".3f")
        + " → "
        + spread([run["accuracy"][1] for run in runs], ".3f"),
        spread([run["loss"][0] for run in runs], ".2f") + " → " + spread([run["loss"][1] for run in runs], ".2f"),
    )
    flips = spread([100 * run["flips"] for run in runs], ".0f") + " %"
    return (
        point["model"],
        point["method"],
        f"{point['stored']:.2f}",
        spread([run["kl"] for run in runs], ".2g"),
        flips,
        *scores,
    )


def inflation_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the inflation table."""
    runs = row["runs"]

    def of(key: str, form: str) -> str:
        return spread([run[key] for run in runs], form)

    components = f"{of('components', '.0f')} ({runs[0]['direct_components']})"
    kl = (spread([run[side]["kl"] for run in runs], ".2g") for side in ("inflated", "direct"))
    accuracy = " → ".join(spread([run["inflated"]["accuracy"][at] for run in runs], ".3f") for at in (0, 1))
    return (row["kind"], f"{row['energy']:.0%}", components, f"{of('stored', '.2f')} ×", of("error", ".4f"),
            of("direct_error", ".4f"), *kl, accuracy)  # fmt: skip


def draw(found: dict[str, Any], axes: Any) -> None:
    """Rate against KL, and the inflations' errors."""
    curve, bars = axes
    for name in CHECKPOINTS:
        for method, line in (("svd", "--"), ("whitened", "-")):
            points = [point for point in found["points"] if (point["model"], point["method"]) == (name, method)]
            kl = [sum(run["kl"] for run in point["runs"]) / len(point["runs"]) for point in points]
            curve.plot([point["stored"] for point in points], kl, line + "o", markersize=3, label=f"{name}, {method}")
    curve.set_yscale("log")
    curve.set_xlabel("stored share of the layers' matrices")
    curve.set_ylabel("KL, nats per token")
    curve.legend(fontsize=7)
    labels = [f"{row['kind']} {row['energy']:.0%}" for row in found["inflations"]]
    places = range(len(labels))
    for shift, key in ((-0.2, "error"), (0.2, "direct_error")):
        heights = [sum(run[key] for run in row["runs"]) / len(row["runs"]) for row in found["inflations"]]
        bars.bar(
            [place + shift for place in places], heights, 0.4, label="inflated" if key == "error" else "Eckart–Young"
        )
    bars.set_xticks(list(places), labels, rotation=60, fontsize=7)
    bars.set_ylabel("relative error at equal rank")
    bars.legend(fontsize=7)


if __name__ == "__main__":
    experiment("compression", run, draw=draw)
