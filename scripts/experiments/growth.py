"""Growth that keeps the function, beside variants that do not: how far logits move.

python scripts/experiments/growth.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from common import CHECKPOINTS, SEEDS, experiment, show, spread, trained, unseen_text

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.fusion import growth
from nexus_universal.fusion.growth.rebuild import grown
from nexus_universal.fusion.growth.residual import padded, rescaled
from nexus_universal.fusion.retention import evidence_of
from nexus_universal.fusion.study.fidelity import logits_of
from nexus_universal.parity.references import widen

Grow = Callable[[UniversalTransformer, int], UniversalTransformer]
TWICE = 192
RATIO = 0.5**0.5


def old_eps(model: UniversalTransformer) -> ArchitectureParameter:
    """The wider n, every eps as it was."""
    wide = rescaled(model.n, TWICE)
    return replace(
        wide,
        layers=tuple(
            replace(
                layer,
                steps=tuple(
                    replace(
                        step,
                        norm=old.norm,
                        branches=tuple(
                            replace(branch, output_norm=was.output_norm)
                            for branch, was in zip(step.branches, old.branches, strict=True)
                        ),
                    )
                    for step, old in zip(layer.steps, before.steps, strict=True)
                ),
            )
            for layer, before in zip(wide.layers, model.n.layers, strict=True)
        ),
        final_norm=model.n.final_norm,
    )


def doubled(model: UniversalTransformer, seed: int) -> UniversalTransformer:
    """Every layer twice, as frankenmerges begin."""
    depth = len(model.n.layers)

    def again(name: str) -> str:
        head, _, rest = name.removeprefix("layers.").partition(".")
        return f"layers.{int(head) % depth}.{rest}" if name.startswith("layers.") else name

    return grown(model, replace(model.n, layers=2 * model.n.layers), seed=seed, renamed=again)


KEPT: dict[str, Grow] = {
    "feed-forward × 2": lambda model, seed: growth.widen_feed_forward(model, 512, seed=seed),
    "heads + 4": lambda model, seed: growth.add_heads(model, 4, seed=seed),
    "layers + 2": lambda model, seed: growth.add_layers(model, 2, seed=seed),
    "residual × 2": lambda model, seed: growth.widen(model, TWICE, seed=seed),
    "residual + 37": lambda model, seed: growth.widen(model, 96 + 37, seed=seed),
    "experts + 4": lambda model, seed: growth.add_experts(model, 4, seed=seed),
}
BROKEN: dict[str, Grow] = {
    "residual × 2, eps left": lambda model, seed: padded(model, old_eps(model), gain=RATIO, seed=seed),
    "residual × 2, gain and eps left": lambda model, seed: padded(model, old_eps(model), gain=1.0, seed=seed),
    "every layer twice": doubled,
}
CENTRED: dict[str, Grow] = {
    "layer norm, repeated": lambda model, seed: growth.widen(model, 2 * model.n.d_hidden, seed=seed),
    "layer norm, zeros": lambda model, seed: padded(
        model, rescaled(model.n, 2 * model.n.d_hidden), gain=RATIO, seed=seed
    ),
}


def centred(seed: int) -> UniversalTransformer:
    """A small GPT-2 with wide random weights: none of the trained checkpoints has layer norms."""
    family = families.find("gpt2")
    model = UniversalTransformer(family.parameter({"model_type": "gpt2", **family.tiny}))
    widen(model, seed=seed)
    return model.eval()


def measured(model: UniversalTransformer, grow: Grow, ids: Any, seed: int) -> dict[str, Any] | None:
    """What the growth moved; None where the model has nothing of that kind."""
    try:
        larger = grow(model, seed)
    except ValueError as refusal:
        return None if "no " in str(refusal) else {"refused": str(refusal)}
    found = evidence_of("source", logits_of(model, ids), logits_of(larger, ids))
    assert found.logits is not None
    logits = found.logits
    parameters = larger.n.count().parameters / model.n.count().parameters
    return {"max": logits.max_difference, "kl": logits.kl, "flips": logits.flips / ids.numel(), "tier": str(found.tier),
            "parameters": parameters}  # fmt: skip


def run() -> dict[str, Any]:
    """All growths of all checkpoints."""
    rows: list[dict[str, Any]] = []
    for name in (*CHECKPOINTS, "gpt2, random"):
        known = name in CHECKPOINTS
        for label, grow in ({**KEPT, **BROKEN} if known else CENTRED).items():
            seen = []
            for seed in SEEDS:
                model = trained(name) if known else centred(seed)
                ids = (
                    unseen_text(name, 4, seed=seed) if known else unseen_text(CHECKPOINTS[0], 4, seed=seed)[:, :64] % 97
                )
                seen.append(measured(model, grow, ids, seed))
            if all(seen) and "max" in seen[0]:
                rows.append(
                    {"model": name, "growth": label, "promised": label in KEPT or "repeated" in label, "runs": seen}
                )
    header = ("model", "growth", "tier", "max |Δ|", "KL, nats", "flips", "parameters")
    show("growth", header, [table_row(row) for row in rows])
    return {"rows": rows}


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    runs = row["runs"]
    worst = max(run["tier"] for run in runs)
    flips = spread([100 * run["flips"] for run in runs], ".1f") + " %"
    numbers = (spread([run[key] for run in runs], ".2g") for key in ("max", "kl"))
    return (row["model"], row["growth"], worst, *numbers, flips, f"{runs[0]['parameters']:.2f} ×")


def draw(found: dict[str, Any], axes: Any) -> None:
    """Largest differences, kept and broken apart."""
    for axis, promised in zip(axes, (True, False), strict=True):
        rows = [row for row in found["rows"] if row["promised"] is promised]
        labels = [f"{row['growth']} · {row['model'].removesuffix('_tiny')}" for row in rows]
        axis.barh(labels, [max(max(run["max"] for run in row["runs"]), 1e-8) for row in rows])
        axis.set_xscale("log")
        axis.axvline(1e-4, color="black", linewidth=0.8)
        axis.set_title("function kept" if promised else "function lost", fontsize=10)
        axis.set_xlabel("max |Δ logit| (0 drawn as 1e-8; the line is R2)")
        axis.tick_params(labelsize=6)


if __name__ == "__main__":
    experiment("growth", run, draw=draw)
