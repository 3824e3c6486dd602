"""A task that neither of two models can do, through bridges between them: what is gained, and what the host loses.

The donor (GPT-2-like, its own tokens: a key is spelled with two letters) knows a table key → number. The host
(Qwen3-like, a key is one token that it has never met) adds numbers. The composite task is `key + b =`. Bridges
are trained on three quarters of the keys and asked about the rest, aligned by byte. Four arms per seed: with replay of
half of the host's own sums, without it, with a donor that was never trained, and with both a gate and a last matrix of
zero (the dead saddle that `Bridge` cannot say). All of them are also asked for the other half of the host's sums.

    python scripts/experiments/cross_fusion.py                     five seeds, into docs/experiments/
    python scripts/experiments/cross_fusion.py --seeds 0 --steps 100 --out /tmp/cross
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import torch.nn.functional as F
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.fusion.cross import Batch, CrossFusionConfig, CrossFusionManager, CrossFusionOptimizer
from nexus_universal.fusion.cross.align import earliest_ends, latest_ends, read_counts
from nexus_universal.layers.memories import DonorInput

NUMBERS, LETTERS = 23, 17
KEYS_OF_A_NUMBER, HELD_OUT_OF_THEM = 12, 3
KEYS = NUMBERS * KEYS_OF_A_NUMBER
PLUS, EQUALS = 2 * NUMBERS, 2 * NUMBERS + 1
FIRST_KEY = EQUALS + 1
HOST = {
    "model_type": "qwen3", "vocab_size": FIRST_KEY + KEYS, "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 32, "tie_word_embeddings": False, "initializer_range": 0.02,
}  # fmt: skip
DONOR = {
    "model_type": "gpt2", "vocab_size": FIRST_KEY + LETTERS, "n_embd": 48, "n_layer": 2, "n_head": 4,
    "n_positions": 32, "initializer_range": 0.1,
}  # fmt: skip
STEPS = 500
ARMS = ("replay", "no replay", "random donor", "double zero")


class World(NamedTuple):
    """One seed: the donor's table, and which keys and sums are kept for the end."""

    table: Tensor
    trained_keys: Tensor
    held_out_keys: Tensor
    replayed: Tensor
    unseen: Tensor

    @classmethod
    def of(cls, seed: int) -> World:
        generator = torch.Generator().manual_seed(seed)
        keys, sums = torch.randperm(KEYS, generator=generator), torch.randperm(NUMBERS**2, generator=generator)
        table = torch.empty(KEYS, dtype=torch.long)
        table[keys] = torch.arange(KEYS) % NUMBERS  # as many keys for every number, among those held out, too
        held_out = NUMBERS * HELD_OUT_OF_THEM
        return cls(table, keys[held_out:], keys[:held_out], sums[: len(sums) // 2], sums[len(sums) // 2 :])


def sums(pairs: Tensor) -> Batch:
    """The host's own inputs, `a + b =`."""
    a, b = pairs // NUMBERS, pairs % NUMBERS
    return spelled(a, b, torch.stack([a, torch.full_like(a, PLUS)], -1), [(0, 2), (2, 3)])


def questions(keys: Tensor, b: Tensor) -> Batch:
    """The composite task's, `key + b =`."""
    letters = torch.stack([keys // LETTERS, keys % LETTERS], -1) + FIRST_KEY
    theirs = torch.cat([letters, torch.full_like(letters[:, :1], PLUS)], -1)
    return spelled(keys + FIRST_KEY, b, theirs, [(0, 1), (1, 2), (2, 3)])


def spelled(first: Tensor, b: Tensor, donor: Tensor, spans: list[tuple[int, int]]) -> Batch:
    """Six bytes, `xx+bb=`: four tokens of the host's, and the donor's own."""
    text, rest = "xx+bb=", [(3, 5), (5, 6)]
    ends = torch.full_like(first, EQUALS)
    ids = torch.stack([first, torch.full_like(first, PLUS), b, ends], -1)
    donor_ids = torch.cat([donor, torch.stack([b, ends], -1)], -1)
    counts = read_counts(earliest_ends(text, [(0, 2), (2, 3), *rest]), latest_ends(text, [*spans, *rest]))
    read = torch.tensor(counts).expand(len(ids), -1)
    return Batch(ids, donors={"donor": DonorInput(input_ids=donor_ids, read=read)})


def trained(n: ArchitectureParameter, ids: Tensor, answers: Tensor, *, steps: int) -> UniversalTransformer:
    """A model that says `answers` behind rows of ids."""
    model = UniversalTransformer(n)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = F.cross_entropy(model(ids, logits_to_keep=1).logits[:, -1], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: UniversalTransformer, batch: Batch, answers: Tensor) -> float:
    """How often the last position's best token is right."""
    return float((model(**batch.call).logits[:, -1].argmax(-1) == answers).float().mean())


def arm(
    name: str, world: World, host: UniversalTransformer, donor: UniversalTransformer, *, steps: int
) -> dict[str, Any]:
    """Train bridges, and ask for everything."""
    config = CrossFusionConfig(kind="projection", taps=((2, 0), (2, 1)), size=2.0, swiglu=True, align="byte")
    manager = CrossFusionManager.attach(host, donor, config)
    if name == "double zero":
        for path in manager.model.n.bridges:
            torch.nn.init.zeros_(manager.model.get_parameter(f"{path}.form.down.weight"))
    retention = None if name == "no replay" else config.retention
    optimizer = CrossFusionOptimizer(manager, lr=4e-3, retention=retention)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.adamw, steps)
    generator, before = torch.Generator().manual_seed(1), fingerprint(manager)
    for _ in range(steps):
        keys = world.trained_keys[torch.randint(len(world.trained_keys), (192,), generator=generator)]
        b = torch.randint(NUMBERS, (192,), generator=generator)
        batch, answers = questions(keys, b), (world.table[keys] + b)
        chosen = world.replayed[torch.randint(len(world.replayed), (96,), generator=generator)]
        optimizer.step(*with_answers(batch, answers), replay=None if retention is None else sums(chosen))
        schedule.step()
    b = torch.arange(NUMBERS).repeat(len(world.held_out_keys))
    keys, known = world.held_out_keys.repeat_interleave(NUMBERS), world.trained_keys.repeat_interleave(NUMBERS)
    more = torch.arange(NUMBERS).repeat(len(world.trained_keys))
    own = sums(world.unseen)
    with manager.bypass():
        bypassed = manager.model(**own.call).logits
    with torch.no_grad():
        alone = host(own.input_ids).logits
    return {
        "held_out": accuracy(manager.model, questions(keys, b), (world.table[keys] + b)),
        "trained_keys": accuracy(manager.model, questions(known, more), (world.table[known] + more)),
        "host_unseen": accuracy(manager.model, own, answers_of(world.unseen)),
        "bypass_equal": bool(torch.equal(bypassed, alone)),
        "backbones_equal": fingerprint(manager) == before,
    }


def with_answers(batch: Batch, answers: Tensor) -> tuple[Batch, Tensor]:
    """One more position, whose id the last one foretells: no position sees it, and the donor does not read it."""
    assert batch.donors is not None
    given, filler = batch.donors["donor"], torch.zeros_like(batch.input_ids[:, :1])
    read = torch.cat([given.read, given.read[:, -1:]], -1)
    longer = DonorInput(input_ids=given.input_ids, read=read)
    labels = torch.cat([torch.full_like(batch.input_ids, -100), answers[:, None]], -1)
    return Batch(torch.cat([batch.input_ids, filler], -1), donors={"donor": longer}), labels


def answers_of(pairs: Tensor) -> Tensor:
    """What the host's own inputs amount to."""
    return pairs // NUMBERS + pairs % NUMBERS


def fingerprint(manager: CrossFusionManager) -> int:
    """A hash of every tensor that belongs to no bridge."""
    frozen = (slot for slot in manager.model.parameters() if not slot.requires_grad)
    return hash(tuple(slot.detach().numpy().tobytes() for slot in frozen))


def run(
    seed: int, *, steps: int = STEPS, host_steps: int = 400, donor_steps: int = 300, arms: tuple[str, ...] = ARMS
) -> dict[str, Any]:
    """All arms of one seed, and what the two models can do alone."""
    torch.manual_seed(seed)
    world, pairs, keys = World.of(seed), torch.arange(NUMBERS**2), torch.arange(KEYS)
    host_n, donor_n = map(ArchitectureParameter.from_huggingface, (HOST, DONOR))
    host = trained(host_n, sums(pairs).input_ids, answers_of(pairs), steps=host_steps)
    given = questions(keys, torch.zeros_like(keys)).donors
    assert given is not None
    spelled_keys = given["donor"].input_ids[:, :2]
    donor = trained(donor_n, spelled_keys, world.table, steps=donor_steps)
    untrained = UniversalTransformer(donor_n).eval()
    b = torch.arange(NUMBERS).repeat(len(world.held_out_keys))
    held_out = world.held_out_keys.repeat_interleave(NUMBERS)
    question = Batch(questions(held_out, b).input_ids)
    found: dict[str, Any] = {
        "seed": seed,
        "host_alone": accuracy(host, Batch(sums(pairs).input_ids), answers_of(pairs)),
        "donor_alone": accuracy(donor, Batch(spelled_keys), world.table),
        "host_alone_composite": accuracy(host, question, (world.table[held_out] + b)),
    }
    for name in arms:
        torch.manual_seed(seed)
        found[name] = arm(name, world, host, untrained if name == "random donor" else donor, steps=steps)
    return found


def main() -> None:
    """Run all seeds, and write a table, a picture and the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "experiments")
    arguments = parser.parse_args()
    started = time.perf_counter()
    workers = ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,))
    with workers:
        results = list(workers.map(partial(run, steps=arguments.steps), arguments.seeds))
    arguments.out.mkdir(parents=True, exist_ok=True)
    written = {"steps": arguments.steps, "numbers": NUMBERS, "keys": KEYS, "results": results}
    (arguments.out / "cross_fusion.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    show(results, arguments.out / "cross_fusion.png")
    print(f"{time.perf_counter() - started:.0f} s")


COLUMNS = {"held_out": "held-out keys", "trained_keys": "trained keys", "host_unseen": "host's unseen sums"}


def markdown(results: list[dict[str, Any]]) -> str:
    """The table of docs/CROSS_FUSION.md."""
    lines = ["| bridges | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
    lines += [f"| {name} | " + " | ".join(spread(results, name, key) for key in COLUMNS) + " |" for name in ARMS]
    return "\n".join(lines)


def spread(results: list[dict[str, Any]], name: str, key: str) -> str:
    """The mean of all seeds, the lowest and the highest."""
    values = [result[name][key] for result in results]
    return f"{statistics.mean(values):.3f} ({min(values):.3f} – {max(values):.3f})"


def show(results: list[dict[str, Any]], picture: Path) -> None:
    """A table for the terminal and a picture of the same figures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"key + b =, {len(results)} seeds: mean (lowest – highest)")
    for title in ("bridges", *COLUMNS.values(), "bypass = host", "backbones unchanged"):
        table.add_column(title)
    figure, axes = plt.subplots(figsize=(8, 4))
    for index, name in enumerate(ARMS):
        found = [result[name] for result in results]
        for place, key in enumerate(COLUMNS):
            values, at = [each[key] for each in found], index + (place - 1) * 0.27
            label = COLUMNS[key] if index == 0 else None
            axes.bar(at, statistics.mean(values), 0.25, color=f"C{place}", label=label)
            axes.scatter([at] * len(values), values, color="black", s=8, zorder=3)
        cells = [spread(results, name, key) for key in COLUMNS]
        flags = (all(each[key] for each in found) for key in ("bypass_equal", "backbones_equal"))
        table.add_row(name, *cells, *("yes" if flag else "NO" for flag in flags))
    axes.axhline(1 / NUMBERS, color="grey", linewidth=1, linestyle=":", label="chance")
    axes.set_xticks(range(len(ARMS)), ARMS)
    axes.set_ylabel("accuracy")
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8, loc="center right")
    axes.set_title("A task that neither model can do, through bridges")
    figure.tight_layout()
    figure.savefig(picture, dpi=120)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
