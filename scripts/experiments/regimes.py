"""Two tasks in one model: merges of three kinds of pairs, beside a union and training on both.

One task adds two numbers modulo a prime, the other multiplies them; each model is trained on one of them. A pair begins
from different weights, from the same ones, or from a base that has seen a little of both.

    python scripts/experiments/regimes.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import SEEDS, experiment, show, spread

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.fusion.branches import join_models
from nexus_universal.fusion.merging.run import merge

NUMBERS = 23
TASKS = ("sum", "product")
STEPS, BASE_STEPS, PEAK = 500, 50, 4e-3
WEIGHTS = (0.3, 0.5, 0.7, 1.0)
"""Of task arithmetic and its kin; the best for both tasks together is kept, which favours the merges."""

METHODS: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "parameters": {"weight": 0.5}},
    "slerp": {"merge_method": "slerp", "parameters": {"t": 0.5}},
    "task arithmetic": {"merge_method": "task_arithmetic"},
    "TIES": {"merge_method": "ties", "parameters": {"density": 0.5}},
    "DARE": {"merge_method": "dare_linear", "parameters": {"density": 0.5}},
}
FROM_BASE = ("task arithmetic", "TIES", "DARE")

N = ArchitectureParameter.from_huggingface(
    {
        "model_type": "llama",
        "vocab_size": NUMBERS + 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 8,
        "initializer_range": 0.12,
        "tie_word_embeddings": False,
    }
)


def questions(task: str) -> tuple[torch.Tensor, torch.Tensor]:
    """All pairs behind the task's own sign, and their answers."""
    a, b = torch.cartesian_prod(torch.arange(NUMBERS), torch.arange(NUMBERS)).unbind(1)
    sign = torch.full_like(a, NUMBERS + TASKS.index(task))
    return torch.stack([sign, a, b], dim=1), (a + b if task == "sum" else a * b) % NUMBERS


def trained(model: UniversalTransformer, tasks: tuple[str, ...], *, steps: int) -> UniversalTransformer:
    """The same model, trained on all questions of some tasks."""
    ids, answers = (torch.cat(each) for each in zip(*map(questions, tasks), strict=True))
    optimiser = torch.optim.AdamW(model.train().parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(0, len(ids), (256 * len(tasks),))
        loss = F.cross_entropy(model(ids[chosen], logits_to_keep=1).logits[:, 0], answers[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def drawn(seed: int) -> UniversalTransformer:
    """A model with random weights."""
    torch.manual_seed(seed)
    return UniversalTransformer(N)


def copied(model: UniversalTransformer) -> UniversalTransformer:
    """The same weights, to be trained on."""
    twin = UniversalTransformer(N)
    twin.load_state_dict(model.state_dict())
    return twin


@torch.no_grad()
def accuracy(model: UniversalTransformer, task: str, **call: Any) -> float:
    """The share of right answers to all of a task's questions."""
    ids, answers = questions(task)
    return float((model(ids, logits_to_keep=1, **call).logits[:, 0].argmax(-1) == answers).float().mean())


def both(model: UniversalTransformer) -> list[float]:
    """One model asked for both tasks."""
    return [accuracy(model, task) for task in TASKS]


def merged(pair: list[Path], base: Path | None, name: str, out: Path) -> list[float]:
    """A merge's accuracies, of the weight that is best for both together where a base is added back."""
    settings, found = METHODS[name], []
    for weight in WEIGHTS if name in FROM_BASE else (None,):
        parameters = settings.get("parameters", {}) | ({"weight": weight} if weight else {})
        recipe = settings | {"parameters": parameters, "models": [{"model": str(path)} for path in pair]}
        if name == "slerp" or base is not None:
            recipe["base_model"] = str(pair[0] if name == "slerp" else base)
        where = out / f"{name}-{weight}"
        merge({"dtype": "float32"} | recipe, where, format="nexus")
        found.append(both(UniversalTransformer.from_pretrained(where)))
    return max(found, key=sum)


def seen(seed: int, folder: Path) -> dict[str, list[float]]:
    """All ways with one seed."""
    start = drawn(seed)
    base = trained(copied(start), TASKS, steps=BASE_STEPS)
    starts = {
        "different weights": (start, drawn(seed + 100)),
        "same weights": (start, start),
        "common base": (base, base),
    }
    found = {"common base, before tuning": both(base)}
    base.save_pretrained(folder / "base", format="nexus")
    start.save_pretrained(folder / "start", format="nexus")
    for regime, pair in starts.items():
        torch.manual_seed(seed)
        experts = [trained(copied(one), (task,), steps=STEPS) for one, task in zip(pair, TASKS, strict=True)]
        paths = [folder / f"{regime}-{task}" for task in TASKS]
        for expert, path in zip(experts, paths, strict=True):
            expert.save_pretrained(path, format="nexus")
        common = {"same weights": folder / "start", "common base": folder / "base"}.get(regime)
        for name in METHODS:
            if common is not None or name not in FROM_BASE:
                needed = common if name in FROM_BASE else None
                found[f"{regime}: {name}"] = merged(paths, needed, name, folder / regime)
        if regime == "different weights":
            union = join_models(**dict(zip(TASKS, experts, strict=True)))
            found["union"] = [accuracy(union, task, capability=task) for task in TASKS]
    found["trained on both"] = both(trained(copied(start), TASKS, steps=2 * STEPS))
    return found


def run() -> dict[str, Any]:
    """Every way with every seed."""
    runs = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            runs.append(seen(seed, Path(folder)))
    rows = [{"way": way, "runs": [one[way] for one in runs]} for way in runs[0]]
    show("two tasks in one model", ("way", *TASKS), map(table_row, rows))
    return {"rows": rows}


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    return (row["way"], *(spread([run[at] for run in row["runs"]], ".2f") for at in range(len(TASKS))))


def draw(found: dict[str, Any], axes: Any) -> None:
    """The mean of both tasks, way by way."""
    rows = found["rows"][::-1]
    means = [sum(map(sum, row["runs"])) / len(TASKS) / len(row["runs"]) for row in rows]
    axes[0].barh([row["way"] for row in rows], means)
    axes[0].set_xlabel("accuracy, mean of both tasks")
    for at, task in enumerate(TASKS):
        axes[1].plot([row["runs"][0][at] for row in rows], range(len(rows)), "o", label=task)
    axes[1].set_yticks([])
    axes[1].set_xlabel("accuracy, first seed")
    axes[1].legend()


if __name__ == "__main__":
    experiment("regimes", run, draw=draw)
