"""Load time, time to first logits, memory and prefill speed against transformers, side by side in one run.

A dense checkpoint of Qwen3-0.6B's shape (1.2 GB in bfloat16) is made by seed, then:

- load: the call of `from_pretrained` (dtype="auto"), and import to first logits, each in a fresh process with a warm
  page cache, ours and the reference's in turn; the growth of VmHWM, first forward included, against the file's size;
- prefill of 512 tokens in one process, interleaved pairs, exact mode;
- decoding one row with `generate`, exact and after `optimize()`, time per token without the prompt's; and beside it the
  time that an fp32 matrix-vector product takes to read as many bytes as the model has.

The ratio of the reference to itself (A/A) is printed beside each figure: what it strays from 1 is the machine's noise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

QWEN3_0_6B = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}

PROBE = """
import json, sys, time
started = time.perf_counter()
import torch
side, path, ids = sys.argv[1], sys.argv[2], torch.arange(64)[None]

def high_water():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

if side == "ours":
    from nexus_universal import UniversalTransformer as Model
    load = lambda: Model.from_pretrained(path)
else:
    from transformers import AutoModelForCausalLM as Model
    load = lambda: Model.from_pretrained(path, dtype="auto")
before, called = high_water(), time.perf_counter()
model = load()
loaded = time.perf_counter()
with torch.no_grad():
    model(ids).logits
print(json.dumps({"load": loaded - called, "first": time.perf_counter() - started, "memory": high_water() - before}))
"""


def make_checkpoint(directory: Path) -> int:
    """Write the checkpoint with the reference's own classes; returns its bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **QWEN3_0_6B), dtype=torch.bfloat16)
    model.save_pretrained(directory)
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def probe(side: str, directory: Path) -> dict[str, float]:
    """One fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, side, str(directory)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare_loading(directory: Path, size: int, *, rounds: int) -> list[dict[str, Any]]:
    """Alternate ours, theirs, theirs: the two of theirs give the A/A ratio."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": [], "again": []}
    for _ in range(rounds):
        runs["theirs"].append(probe("theirs", directory))
        runs["ours"].append(probe("ours", directory))
        runs["again"].append(probe("theirs", directory))
    rows = []
    for key, name, limit in (("load", "load, the call", 0.5), ("first", "import to first logits", 0.7)):
        ours, theirs, again = (statistics.median(run[key] for run in runs[side]) for side in runs)
        rows.append(row(name, ours, theirs, again, limit, "s"))
    grown = statistics.median(run["memory"] for run in runs["ours"])
    reference = statistics.median(run["memory"] for run in runs["theirs"])
    rows.append(
        {
            "what": "VmHWM growth / file size",
            "ours": grown / size,
            "reference": reference / size,
            "ratio": grown / size,
            "a/a": 1.0,
            "at most": 1.1,
            "unit": "x file",
        }
    )
    return rows


def compare_prefill(directory: Path, *, tokens: int, pairs: int) -> dict[str, Any]:
    """Interleaved prefills of one row in one process."""
    import torch
    from transformers import AutoModelForCausalLM

    from nexus_universal import UniversalTransformer

    ours = UniversalTransformer.from_pretrained(directory)
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    ids = torch.randint(0, QWEN3_0_6B["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(0))

    def timed(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started

    calls: dict[str, Callable[[], Any]] = {
        "theirs": lambda: theirs(ids, use_cache=False, logits_to_keep=1),
        "ours": lambda: ours(ids, logits_to_keep=1),
        "again": lambda: theirs(ids, use_cache=False, logits_to_keep=1),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for call in calls.values():
            call()
        for index in range(pairs):
            order = list(calls) if index % 2 else list(reversed(calls))
            for name in order:
                times[name].append(timed(calls[name]))
        same = torch.equal(calls["theirs"]().logits, calls["ours"]().logits)
    medians = {name: statistics.median(values) for name, values in times.items()}
    paired = statistics.median(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
    found = row(f"prefill {tokens} tokens", medians["ours"], medians["theirs"], medians["again"], 1.03, "s")
    return found | {"ratio": paired, "same bits": same}


def compare_decoding(directory: Path, size: int, *, prompt: int, new: int, rounds: int) -> list[dict[str, Any]]:
    """Interleaved texts of one row: a text's time less that of its first token, by its other tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    from nexus_universal import UniversalTransformer

    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype="auto").eval()
    exact = UniversalTransformer.from_pretrained(directory)
    fast = UniversalTransformer.from_pretrained(directory).optimize()
    ids = torch.randint(0, QWEN3_0_6B["vocab_size"], (1, prompt), generator=torch.Generator().manual_seed(0))
    matrices = [torch.randn(4096, 1024) for _ in range(size // (4096 * 1024 * 4))]
    vector = torch.randn(1024)

    def text(model: Any, count: int) -> float:
        settings: dict[str, Any] = {"max_new_tokens": count, "do_sample": False}
        if model is theirs:
            settings |= {"eos_token_id": None, "pad_token_id": 0}
        started = time.perf_counter()
        model.generate(ids, **settings)
        return time.perf_counter() - started

    def read() -> float:
        started = time.perf_counter()
        for matrix in matrices:
            torch.mv(matrix, vector)
        return time.perf_counter() - started

    def per_token(model: Any) -> float:
        return (text(model, new + 1) - text(model, 1)) / new

    calls: dict[str, Callable[[], float]] = {
        "theirs": lambda: per_token(theirs),
        "exact": lambda: per_token(exact),
        "fast": lambda: per_token(fast),
        "read": read,
        "again": lambda: per_token(theirs),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds + 1):
        for name in list(calls) if index % 2 else list(reversed(calls)):
            times[name].append(1e3 * calls[name]())
    found = {name: statistics.median(values[1:]) for name, values in times.items()}
    place = f"decode at {prompt} tokens"
    return [
        row(f"{place}, exact", found["exact"], found["theirs"], found["again"], 1.03, "ms"),
        row(f"{place}, optimize()", found["fast"], found["theirs"], found["again"], 1 / 3, "ms"),
        row(f"{place}, optimize(), beside reading its bytes", found["fast"], found["read"], found["read"], 1.25, "ms"),
    ]


def row(what: str, ours: float, theirs: float, again: float, limit: float, unit: str) -> dict[str, Any]:
    """One line of the table."""
    return {
        "what": what,
        "ours": ours,
        "reference": theirs,
        "ratio": ours / theirs,
        "a/a": again / theirs,
        "at most": limit,
        "unit": unit,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="fresh processes per side")
    parser.add_argument("--pairs", type=int, default=15, help="interleaved prefills")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--prompt", type=int, default=64, help="tokens that decoding goes on from")
    parser.add_argument("--new", type=int, default=24, help="tokens that are decoded")
    parser.add_argument("--texts", type=int, default=5, help="interleaved texts per side")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "qwen3-0.6b-shape"
        size = make_checkpoint(directory)
        rows = compare_loading(directory, size, rounds=arguments.rounds)
        rows.append(compare_prefill(directory, tokens=arguments.tokens, pairs=arguments.pairs))
        length = {"prompt": arguments.prompt, "new": arguments.new}
        rows += compare_decoding(directory, size, **length, rounds=arguments.texts)

    import torch
    from rich.console import Console
    from rich.table import Table

    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    table = Table(title=f"Qwen3-0.6B shape, bfloat16, {size / 1e9:.2f} GB · {machine}")
    for column in ("", "ours", "reference", "ours / reference", "A/A", "at most"):
        table.add_column(column, justify="left" if not column else "right")
    for found in rows:
        table.add_row(
            f"{found['what']} [{found['unit']}]",
            f"{found['ours']:.3f}",
            f"{found['reference']:.3f}",
            f"{found['ratio']:.3f}",
            f"{found['a/a']:.3f}",
            f"{found['at most']:.2f}",
        )
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
