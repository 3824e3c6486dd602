"""Times side by side: every round calls each side once, in turning order; figures are medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

REFERENCE, AGAIN = "reference", "again"
"""Sides that every comparison has: the reference twice. What the two differ by is the machine's noise."""


def interleaved(
    calls: Mapping[str, Callable[[], Mapping[str, float]]], rounds: int, *, warm: bool = True
) -> dict[str, dict[str, list[float]]]:
    """By quantity and side, what each of the rounds found; a first round is thrown away."""
    found: dict[str, dict[str, list[float]]] = {}
    for index in range(rounds + warm):
        for side in sorted(calls, reverse=bool(index % 2)):
            for quantity, value in calls[side]().items():
                if index >= warm:
                    found.setdefault(quantity, {}).setdefault(side, []).append(value)
    return found


def figures(times: Mapping[str, list[float]]) -> dict[str, Any]:
    """Of one quantity: each side's median, and the median of its ratios to the reference, round by round."""
    sides = {
        side: {
            "median": statistics.median(values),
            "ratio": statistics.median(a / b for a, b in zip(values, times[REFERENCE], strict=True)),
        }
        for side, values in times.items()
    }
    noise = sides.pop(AGAIN)["ratio"]
    return {"sides": sides, "a/a": noise}


def seconds(call: Callable[[], Any], *, device: str = "cpu") -> float:
    """How long one call takes; on a GPU, until its kernels are through."""
    wait = _waiter(device)
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def _waiter(device: str) -> Callable[[], None]:
    if device == "cpu":
        return lambda: None
    import torch

    return torch.cuda.synchronize


class Clock:
    """A streamer that notes when ids come: the prompt first, before the model has read it."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def put(self, value: Any) -> None:
        """The ids lie on the CPU already: what made them is through."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing is left to do."""

    def found(self) -> dict[str, float]:
        """Seconds to the first token, counted from the call, and per further token (their median)."""
        further = [after - before for before, after in zip(self.times[2:], self.times[3:], strict=False)]
        return {"first": self.times[2] - self.times[0], "further": statistics.median(further)}
