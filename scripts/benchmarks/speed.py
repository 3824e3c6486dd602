"""Prompts and texts in one process: time to the first token, prefill, decoding; by batch and by context."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import AGAIN, REFERENCE, Clock, figures, interleaved, seconds
from nexus_universal import UniversalTransformer

PLAIN = (REFERENCE, "exact", "optimize()", AGAIN)
"""The sides that read prompts and batches of any length; others only write short texts."""

LONG = 8.0
"""Seconds of a prompt from which on it is read less often."""

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


@dataclass(frozen=True)
class Side:
    """A model that reads prompts and writes texts."""

    model: Any
    prompt: dict[str, Any]
    text: dict[str, Any]
    batches: bool = True
    """Whether it takes more rows than one."""

    def read(self, ids: Tensor) -> Any:
        """The last position's logits of a prompt that nothing follows."""
        return self.model(ids, logits_to_keep=1, **self.prompt)

    def write(self, ids: Tensor, new: int) -> dict[str, float]:
        """Seconds to the first and per further token of `generate`."""
        clock = Clock()
        self.model.generate(ids, max_new_tokens=new, do_sample=False, streamer=clock, **self.text)
        return clock.found()


def sides(directory: Path, *, device: str, compiled: bool) -> dict[str, Side]:
    """The reference, this library exact and optimised; `compiled`: both with static caches and compilers as well."""
    from transformers import AutoModelForCausalLM, CompileConfig

    where = {} if device == "cpu" else {"device_map": device}
    theirs = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", **where).eval()
    theirs.generation_config.eos_token_id = None
    theirs.generation_config.pad_token_id = 0
    exact = UniversalTransformer.from_pretrained(directory, device=device)
    fast = UniversalTransformer.from_pretrained(directory, device=device).optimize()
    reference = Side(theirs, {"use_cache": False}, {})
    found = {REFERENCE: reference, "exact": Side(exact, {}, {}), "optimize()": Side(fast, {}, {}), AGAIN: reference}
    if compiled:
        settings: Any = CompileConfig(dynamic=True)
        settings._compile_all_devices = True  # generate compiles on accelerators only
        again = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", **where).eval()
        again.generation_config = theirs.generation_config
        static = {"cache_implementation": "static", "compile_config": settings}
        found["static, compiled"] = Side(again, {"use_cache": False}, static)
        steady: tuple[dict[str, Any], ...] = ({"cache": "static"}, {"compile": True})
        for asked in steady:
            said = ", ".join(f"{key}={value!r}" for key, value in asked.items())
            model = UniversalTransformer.from_pretrained(directory, device=device).optimize(**asked)
            found[f"optimize({said})"] = Side(model, {}, {})
    return found


def prompt(vocab: int, *, batch: int, length: int, device: str) -> Tensor:
    """Ids by seed."""
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(0)).to(device)


@torch.no_grad()
def prefill(sides: dict[str, Side], ids: Tensor, *, rounds: int) -> dict[str, Any]:
    """Seconds of one call without a cache; and whether exact logits have the reference's bits."""
    device = ids.device.type

    def caller(side: Side) -> Callable[[], dict[str, float]]:
        return lambda: {"seconds": seconds(lambda: side.read(ids), device=device)}

    times = interleaved({name: caller(sides[name]) for name in PLAIN}, rounds)["seconds"]
    same = torch.equal(sides[REFERENCE].read(ids).logits, sides["exact"].read(ids).logits)
    return figures(times) | {"same bits": same, "share of products": share_of_products(sides[REFERENCE], ids)}


@torch.no_grad()
def decoding(
    sides: dict[str, Side], ids: Tensor, *, new: int, rounds: int, warm: bool = True
) -> dict[str, dict[str, Any]]:
    """Seconds to the `first` token, and per `further` one of all rows."""

    def caller(side: Side) -> Callable[[], dict[str, float]]:
        return lambda: side.write(ids, new)

    found = interleaved({name: caller(side) for name, side in sides.items()}, rounds, warm=warm)
    return {quantity: figures(times) for quantity, times in found.items()}


def by_context(
    sides: dict[str, Side], vocab: int, lengths: Iterable[int], *, device: str, new: int, rounds: int, patience: float
) -> dict[int, dict[str, dict[str, Any]]]:
    """`decoding` of one row at each length, up to the first whose reference would need more than `patience` seconds.

    A prompt of several seconds is read half as often, and not once more beforehand: it warms itself up.
    """
    found: dict[int, dict[str, dict[str, Any]]] = {}
    sides = {name: sides[name] for name in PLAIN}
    expected = 0.0
    for length in lengths:
        if found:
            last = max(found)
            expected = found[last]["first"]["sides"][REFERENCE]["median"] * (length / last) ** 2
        if expected > patience:
            break
        long = expected > LONG
        ids = prompt(vocab, batch=1, length=length, device=device)
        found[length] = decoding(sides, ids, new=new, rounds=-(-rounds // 2) if long else rounds, warm=not long)
    return found


def share_of_products(side: Side, ids: Tensor) -> float:
    """What share of a prompt's time is matrix products, attention's own not counted: no exact form goes below it."""
    device = ids.device.type
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    with profile(activities=kinds) as seen:
        side.read(ids)
    spent = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    times = {event.key: getattr(event, spent) for event in seen.key_averages()}
    return sum(times.get(name, 0.0) for name in PRODUCTS) / sum(times.values())
