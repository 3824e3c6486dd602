"""Load time, time from import to the first logits, and peak memory: each in a fresh process, the page cache warm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.timing import AGAIN, REFERENCE, figures, interleaved

PROBE = """
import json, sys, time
started = time.perf_counter()
import torch
side, path, device = sys.argv[1:]
ids = torch.arange(64)[None]

def high_water():
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

if side == "exact":
    from nexus_universal import UniversalTransformer as Model
    load = lambda: Model.from_pretrained(path, device=device)
else:
    from transformers import AutoModelForCausalLM as Model
    where = {} if device == "cpu" else {"device_map": device}
    load = lambda: Model.from_pretrained(path, dtype="auto", **where)
before, called = high_water(), time.perf_counter()
model = load()
loaded = time.perf_counter()
with torch.no_grad():
    model(ids.to(device)).logits.cpu()
print(json.dumps({"load": loaded - called, "logits": time.perf_counter() - started, "memory": high_water() - before}))
"""


def probe(side: str, directory: Path, device: str) -> dict[str, float]:
    """One fresh process."""
    command = [sys.executable, "-c", PROBE, side, str(directory), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def loading(directory: Path, *, device: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of `load` and of import to `logits`; bytes by which the peak of `memory` grew, first call included."""
    sides = {REFERENCE: "reference", "exact": "exact", AGAIN: "reference"}

    def caller(side: str) -> Callable[[], dict[str, float]]:
        return lambda: probe(side, directory, device)

    found = interleaved({name: caller(side) for name, side in sides.items()}, rounds)
    return {quantity: figures(times) for quantity, times in found.items()}
