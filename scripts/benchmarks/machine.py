"""The machine: what kind it is, and what it reaches where nothing but memory or multiplication counts."""

from __future__ import annotations

import platform
import statistics
import subprocess
from typing import Any

from benchmarks.timing import seconds

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16")
TRIES = 9


def kind(device: str) -> dict[str, Any]:
    """Processor, cores, vector units, versions; on a GPU its name as well."""
    import torch
    import transformers

    found: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    try:
        listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in listed.splitlines())}
    vector = [flag for flag in FLAGS if flag in values.get("Flags", "").split()]
    return f"{values.get('Model name', platform.machine())}, {values.get('CPU(s)', '?')} cores, {', '.join(vector)}"


def limits(device: str, *, nbytes: int) -> dict[str, float]:
    """Bytes/s and FLOP/s that a kernel which does nothing else reaches: what use is measured against.

    On a CPU bytes are read by fp32 matrix-vector products of as many bytes as a model has, on a GPU copied (read and
    written). FLOPs are those of a bfloat16 product of prompt size.
    """
    return {"bytes/s": _bandwidth(device, nbytes), "FLOP/s": _product(device)}


def _bandwidth(device: str, nbytes: int) -> float:
    import torch

    if device == "cpu":
        matrices = [torch.randn(4096, 1024) for _ in range(nbytes // (4096 * 1024 * 4))]
        vector, whole = torch.randn(1024), len(matrices) * 4096 * 1024 * 4

        def read() -> None:
            for matrix in matrices:
                torch.mv(matrix, vector)

        return whole / _median(read, device)
    source = torch.empty(nbytes, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    return 2 * nbytes / _median(lambda: goal.copy_(source), device)


def _product(device: str) -> float:
    import torch

    rows, inner, columns = (512, 1024, 6144) if device == "cpu" else (8192, 8192, 8192)
    left = torch.randn(rows, inner, dtype=torch.bfloat16, device=device)
    right = torch.randn(columns, inner, dtype=torch.bfloat16, device=device)
    return 2 * rows * inner * columns / _median(lambda: torch.nn.functional.linear(left, right), device)


def _median(call: Any, device: str) -> float:
    call()
    return statistics.median(seconds(call, device=device) for _ in range(TRIES))
