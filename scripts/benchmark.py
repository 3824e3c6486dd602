"""Load time, memory, first token, prefill and decoding against transformers, side by side in one run.

Four models (dense, experts, latent attention, hybrid) are made by seed in bfloat16; sizes are in benchmarks/models.py.
Measured are the reference, this library as it is ("exact": the reference's bits) and after `optimize()`:

- load: the call of `from_pretrained` (dtype="auto"), import to first logits, growth of the memory's peak, first call
  included; each in a fresh process with a warm page cache;
- prefill of 512 tokens without a cache;
- decoding with `generate`, greedily, at batch 1, 4 and 16;
- time to the first and per further token at contexts of 128 … 32768, as far as --patience allows.

Sides take turns, round by round; figures are medians, ratios medians over rounds; the reference runs twice, and the
ratio of the two (A/A) is the machine's noise. What bounds a figure is measured in the same run (benchmarks/machine.py).
--compiled adds the reference with a static cache, compiled, and optimize() with one, recorded on a GPU, and compiled;
litgpt joins on the dense shape where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from benchmarks import machine, report
from benchmarks.loading import loading
from benchmarks.models import SHAPES, make_checkpoint

TOKENS = 512
PROMPT = 64
BATCHES = (1, 4, 16)
CONTEXTS = (128, 512, 2048, 8192, 32768)


def measured(name: str, directory: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """All figures of one model."""
    from benchmarks import speed

    shape = SHAPES[name]
    device, vocab, few = asked.device, shape.config["vocab_size"], 1 if asked.quick else asked.rounds // 3
    found: dict[str, Any] = {
        "title": shape.title,
        "bytes": make_checkpoint(shape, directory),
        "bytes read": 2 * shape.weights_read(),
        "flops of prompt": shape.flops_of_prompt(TOKENS),
        "loading": loading(directory, device=device, rounds=max(few, 1)),
    }
    sides = speed.sides(directory, device=device, compiled=asked.compiled)
    if name == "dense" and importlib.util.find_spec("litgpt"):
        from benchmarks.litgpt import litgpt_side

        sides["litgpt"] = litgpt_side("Qwen3-0.6B", device=device)
    ids = speed.prompt(vocab, batch=1, length=TOKENS, device=device)
    found["prefill"] = {"tokens": TOKENS, **speed.prefill(sides, ids, rounds=asked.rounds)}
    found["decode"] = {}
    for batch in BATCHES[: 2 if asked.quick else None]:
        ids = speed.prompt(vocab, batch=batch, length=PROMPT, device=device)
        able = {side: each for side, each in sides.items() if batch == 1 or each.batches}
        times = speed.decoding(able, ids, new=asked.new, rounds=max(few, 1))
        found["decode"][str(batch)] = {"prompt": PROMPT, **times}
    lengths = [length for length in CONTEXTS if length <= asked.longest]
    short = {"new": 8, "rounds": 1 if asked.quick else max(few, 4), "patience": asked.patience}
    contexts = speed.by_context(sides, vocab, lengths, device=device, **short)
    return found | {"contexts": {str(length): times for length, times in contexts.items()}}


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it runs, not for figures")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved prefills; the rest takes a third")
    parser.add_argument("--new", type=int, default=16, help="tokens of a text")
    parser.add_argument("--longest", type=int, default=CONTEXTS[-1], help="longest context")
    parser.add_argument("--patience", type=float, default=30.0, help="seconds that a prompt of the reference may take")
    parser.add_argument("--compiled", action="store_true", help="static caches and compilers as well")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--plot", type=Path, help="draw the figures by context here (needs matplotlib)")
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.new, asked.longest = 2, 5, min(asked.longest, CONTEXTS[0])
    return asked


def main() -> None:
    """Measure, print, and write."""
    asked = options()
    found: dict[str, Any] = {"date": date.today().isoformat(), "device": asked.device, "rounds": asked.rounds}
    found["machine"] = machine.kind(asked.device)
    found["limits"] = machine.limits(asked.device, nbytes=1 << 30)
    found["models"] = {}
    for name in asked.models:
        with tempfile.TemporaryDirectory() as scratch:
            found["models"][name] = measured(name, Path(scratch) / name, asked)
        if asked.json:  # after each model: a run that is cut short leaves what it found
            asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    report.print_table(found)
    if asked.plot:
        report.draw(found, asked.plot)


if __name__ == "__main__":
    main()
