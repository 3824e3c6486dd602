"""What the experiments share: seeds, text that no checkpoint was trained on, and how results are shown and kept."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from rich.console import Console
from rich.table import Table
from train_tiny import SEED, documents

from nexus_universal import UniversalTransformer
from nexus_universal.fusion.study.plots import figure
from nexus_universal.generation.text import load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
DATA, RESULTS = ROOT / "tests" / "data", ROOT / "docs" / "experiments"
CHECKPOINTS = ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")
SEEDS = (0, 1, 2)
LENGTH = 128


def trained(name: str) -> UniversalTransformer:
    """A trained checkpoint in float32."""
    return UniversalTransformer.from_pretrained(DATA / name, dtype="float32")


def unseen_text(name: str, rows: int, *, seed: int) -> torch.Tensor:
    """Rows of `LENGTH` ids of docstrings that were held out when the checkpoint was trained, drawn by `seed`."""
    windows = _windows(name)
    chosen = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))[:rows]
    return windows[chosen]


@cache
def _held_out() -> list[str]:
    texts = documents(Path(sysconfig.get_path("stdlib")))
    random.Random(SEED).shuffle(texts)
    return texts[: len(texts) // 50]


@cache
def _windows(name: str) -> torch.Tensor:
    tokenizer = load_tokenizer(DATA / name)
    joined = [token for text in _held_out() for token in (0, *tokenizer(text, add_special_tokens=False)["input_ids"])]
    return torch.tensor(joined[: len(joined) // LENGTH * LENGTH]).view(-1, LENGTH)


def spread(values: Iterable[float], form: str = ".3g") -> str:
    """Mean ± standard deviation over seeds."""
    found = list(values)
    return f"{mean(found):{form}} ± {pstdev(found):.1g}" if len(set(found)) > 1 else f"{found[0]:{form}}"


def show(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="left" if name == header[0] else "right")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=160).print(table)


def experiment(name: str, run: Callable[[], dict[str, Any]], *, draw: Callable[[dict[str, Any], Any], None]) -> None:
    """Run it, and write docs/experiments/NAME.json and NAME.png (or under --out)."""
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the picture")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    found = run()
    arguments.out.mkdir(parents=True, exist_ok=True)
    versions = {"torch": torch.__version__, "python": sys.version.split()[0], "seeds": list(SEEDS)}
    text = json.dumps(versions | found, indent=1, ensure_ascii=False)
    (arguments.out / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    drawn, axes = figure(1, 2, size=(11.0, 4.2))
    draw(found, axes[0])
    drawn.savefig(arguments.out / f"{name}.png", dpi=90)
    print(f"{name}: {time.monotonic() - started:.0f} s, {arguments.out / name}.json and .png")
