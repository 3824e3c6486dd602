"""How many facts a model of fixed size can hold: recall, and bits per parameter, as facts grow in number.

A fact is a key of three tokens and one of 32 values, all drawn at random: 5 bits that nothing foretells.

    python scripts/experiments/capacity.py
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from common import SEEDS, experiment, show, spread

from nexus_universal import ArchitectureParameter, UniversalTransformer

SYMBOLS, KEY = 32, 3
FACTS = (512, 2048, 4096, 8192)
STEPS, BATCH, PEAK = 600, 1024, 1.5e-2


def architecture() -> ArchitectureParameter:
    """A small Llama."""
    return ArchitectureParameter.from_huggingface(
        {
            "model_type": "llama",
            "vocab_size": SYMBOLS,
            "hidden_size": 20,
            "intermediate_size": 60,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8,
            "initializer_range": 0.15,
        }
    )


def facts(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Different keys, and a value for each."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(SYMBOLS**KEY, generator=generator)[:count]
    keys = torch.stack([numbers // SYMBOLS**at % SYMBOLS for at in range(KEY)], dim=1)
    return keys, torch.randint(0, SYMBOLS, (count,), generator=generator)


def learned(count: int, seed: int) -> dict[str, float]:
    """Train on the facts, then ask for each."""
    torch.manual_seed(seed)
    model = UniversalTransformer(architecture()).train()
    keys, values = facts(count, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.0)
    for step in range(STEPS):
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimiser.param_groups[0]["lr"] = PEAK * max(rate, 0.01)
        chosen = torch.randint(0, count, (min(BATCH, count),)) if count > BATCH else torch.arange(count)
        loss = F.cross_entropy(model(keys[chosen], logits_to_keep=1).logits[:, 0], values[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        logits = model.eval()(keys, logits_to_keep=1).logits[:, 0]
    nats = float(F.cross_entropy(logits, values))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {
        "recall": float((logits.argmax(-1) == values).float().mean()),
        "bits": count * max(0.0, math.log2(SYMBOLS) - nats / math.log(2)) / parameters,
        "offered": count * math.log2(SYMBOLS) / parameters,
        "parameters": parameters,
    }


def run() -> dict[str, Any]:
    """Every number of facts with every seed."""
    rows = [{"facts": count, "runs": [learned(count, seed) for seed in SEEDS]} for count in FACTS]
    show("capacity", ("facts", "bits offered per parameter", "recall", "bits held per parameter"), map(table_row, rows))
    return {"rows": rows}


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    runs = row["runs"]
    held = (spread([run[key] for run in runs], ".2f") for key in ("recall", "bits"))
    return (f"{row['facts']:,}", f"{runs[0]['offered']:.2f}", *held)


def draw(found: dict[str, Any], axes: Any) -> None:
    """Recall and bits against what was offered."""
    offered = [row["runs"][0]["offered"] for row in found["rows"]]
    for axis, key in zip(axes, ("recall", "bits"), strict=True):
        for at, seed in enumerate(SEEDS):
            axis.plot(offered, [row["runs"][at][key] for row in found["rows"]], "o-", label=f"seed {seed}")
        axis.set_xlabel("bits offered per parameter")
        axis.set_ylabel({"recall": "recall", "bits": "bits held per parameter"}[key])
    axes[1].plot(offered, offered, color="black", linewidth=0.8, label="all of them")
    axes[1].legend(fontsize=7)


if __name__ == "__main__":
    experiment("capacity", run, draw=draw)
