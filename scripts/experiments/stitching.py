"""One model's residual put in the place of another's by a linear map, layer by layer: where the two agree.

The map is found by ridge regression on one half of the text, and what the second model says with it is asked on the
other half: the share of positions whose likeliest token stays, and the loss. Nothing is trained.

    python scripts/experiments/stitching.py
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from common import SEEDS, experiment, show, spread, trained, unseen_text

from nexus_universal import UniversalTransformer
from nexus_universal.fusion.cross.stitch import ridge

DONOR, HOST = "qwen3_tiny", "glm4_moe_lite_tiny"
"""Both read the same tokens, without one in front."""
ROWS = 128


@torch.no_grad()
def states(model: UniversalTransformer, ids: torch.Tensor) -> list[torch.Tensor]:
    """The residual after 0, 1, … layers, token by token."""
    found = model.residuals(ids, after=range(model.n.num_layers + 1))
    return [found[layers].flatten(0, 1) for layers in sorted(found)]


@torch.no_grad()
def stitched(host: UniversalTransformer, ids: torch.Tensor, residual: torch.Tensor, layers: int) -> torch.Tensor:
    """The host's logits with `residual` in the place of its own after so many layers."""
    point = "layers.0.input" if layers == 0 else f"layers.{layers - 1}.output"
    given = residual.view(*ids.shape, -1)
    with host.intervene(point, lambda own: given.to(own)):
        return host(ids).logits


@torch.no_grad()
def table_of(seed: int) -> dict[str, Any]:
    """All pairs of layers with one drawing of the text."""
    donor, host = trained(DONOR), trained(HOST)
    ids = unseen_text(HOST, ROWS, seed=seed)
    known, asked = ids.chunk(2)
    from_donor, to_host = states(donor, known), states(host, known)
    donor_asked, own = states(donor, asked), host(asked).logits
    kept, losses = [], []
    for layers, target in enumerate(to_host):
        row = [
            stitched(host, asked, donor_asked[tap] @ ridge(source, target).T, layers)
            for tap, source in enumerate(from_donor)
        ]
        kept.append([float((logits.argmax(-1) == own.argmax(-1)).float().mean()) for logits in row])
        losses.append([loss_of(logits, asked) for logits in row])
    return {
        "kept": kept,
        "loss": losses,
        "own loss": loss_of(own, asked),
        "donor's loss": loss_of(donor(asked).logits, asked),
    }


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Mean nats per token."""
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def run() -> dict[str, Any]:
    """Every pair with every seed."""
    runs = [table_of(seed) for seed in SEEDS]
    for what in ("kept", "loss"):
        show(f"{what}: {DONOR} into {HOST}", header(runs), table_rows(runs, what))
    return {"donor": DONOR, "host": HOST, "runs": runs}


def header(runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """What the columns are."""
    return ("layers of the host", *(f"donor after {tap}" for tap in range(len(runs[0]["kept"][0]))))


def table_rows(runs: list[dict[str, Any]], what: str) -> list[tuple[str, ...]]:
    """A line for each number of layers of the host."""
    whole = range(len(runs[0][what]))
    return [
        (f"after {layers}", *(spread(seen, ".2f") for seen in zip(*(run[what][layers] for run in runs), strict=True)))
        for layers in whole
    ]


def draw(found: dict[str, Any], axes: Any) -> None:
    """Both tables as pictures, means over seeds."""
    for at, what in enumerate(("kept", "loss")):
        mean = torch.tensor([run[what] for run in found["runs"]]).mean(0)
        picture = axes[at].imshow(mean, origin="lower", cmap="viridis")
        axes[at].set_xlabel("layers of the donor that have run")
        axes[at].set_ylabel("layers of the host")
        axes[at].set_title("share of likeliest tokens kept" if what == "kept" else "loss, nats per token")
        axes[at].figure.colorbar(picture, ax=axes[at])


if __name__ == "__main__":
    experiment("stitching", run, draw=draw)
