"""What n takes of memory on one GPU or on several, and which way of sharing it out fits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.activations import kept
from nexus_universal.architecture.costs import FLOAT32_BYTES
from nexus_universal.architecture.count import BYTES, costs
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import refuse_fused
from nexus_universal.architecture.stages import pipeline_stages
from nexus_universal.architecture.tensor_parallel import tensor_parallel_plan

if TYPE_CHECKING:
    from nexus_universal.architecture.parameter import ArchitectureParameter

MOMENTS = 2
"""Of AdamW, in the weights' dtype."""

MOST_GPUS = 4096
UNITS = {"": 1, **{p: 1000**i for i, p in enumerate("KMGT", 1)}, **{f"{p}I": 1024**i for i, p in enumerate("KMGT", 1)}}


def bytes_of(text: str) -> int:
    """`80GB` (10⁹ bytes each), `80GiB` (2³⁰) and the like as a number of bytes.

    Raises:
        InputError: not a positive number with a known unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]I?)?B", text.strip().upper())
    if found is None or not float(found[1]):
        raise InputError(f"memory {text!r} must be a number of bytes with its unit, such as 80GB or 40GiB")
    return int(float(found[1]) * UNITS[found[2] or ""])


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done with n: texts of `context` tokens, `batch` at once, read and continued, or trained on."""

    dtype: str
    context: int
    batch: int
    training: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Bytes on one GPU. `weights` and `cache` are exact, for n's parameters in one dtype and past every window.

    `gradients` and `optimiser` (AdamW's moments) are as large as the weights, and twice that. `activations` are
    estimated: kept for gradients, or of the widest layer and the last logits.
    """

    weights: int
    cache: int
    activations: int
    gradients: int = 0
    optimiser: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.activations + self.gradients + self.optimiser

    def to_data(self) -> dict[str, int]:
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A way of sharing n out over so many GPUs: what the fullest takes, or why it does not work."""

    name: str
    gpus: int
    use: Use | None
    refused: str | None = None

    def fits(self, memory: int) -> bool:
        return self.use is not None and self.use.total <= memory

    def to_data(self, memory: int) -> dict[str, Any]:
        told = self.use.to_data() if self.use else None
        return {"name": self.name, "gpus": self.gpus, "fits": self.fits(memory), "bytes": told, "refused": self.refused}


def layouts(n: ArchitectureParameter, task: Task, *, gpus: int) -> tuple[Layout, ...]:
    """One GPU, and every way over 2, 4, … up to `gpus` and `gpus` itself.

    Pipelines are for training: their stages keep no cache.

    Raises:
        InputError: no GPU, an empty batch, or a context or dtype that cannot be counted.
    """
    refuse_fused(n, "a plan")
    if gpus < 1 or task.batch < 1:
        raise InputError(f"{gpus} GPUs and a batch of {task.batch}: both must be at least 1")
    found = [Layout(name="one GPU", gpus=1, use=_whole(n, task, rows=task.batch))]
    for ways in sorted({1 << power for power in range(1, gpus.bit_length()) if 1 << power <= gpus} | {gpus} - {1}):
        found += _shared(n, task, ways)
    return tuple(found)


def fewest(n: ArchitectureParameter, task: Task, *, memory: int) -> Layout | None:
    """The layout over the fewest GPUs of `memory` bytes, powers of two tried up to 4096; None if none does."""
    ways = 2
    if (alone := Layout(name="one GPU", gpus=1, use=_whole(n, task, rows=task.batch))).fits(memory):
        return alone
    while ways <= MOST_GPUS:
        fitting = [layout for layout in _shared(n, task, ways) if layout.fits(memory)]
        if fitting:
            return min(fitting, key=lambda layout: layout.use.total if layout.use else 0)
        ways *= 2
    return None


def _shared(n: ArchitectureParameter, task: Task, ways: int) -> Iterator[Layout]:
    yield _tensor_parallel(n, task, ways)
    if task.training:
        yield _pipeline(n, task, ways)
    yield _fully_sharded(n, task, ways)


def _tensor_parallel(n: ArchitectureParameter, task: Task, ways: int) -> Layout:
    plan, name = tensor_parallel_plan(n, ways), f"tensor parallel {ways}"
    if not plan.cuts:
        return Layout(name=name, gpus=ways, use=None, refused=next(map(str, plan.entries.values())))
    return Layout(name=name, gpus=ways, use=_whole(plan.share, task, rows=task.batch, vocab=n.d_vocab))


def _pipeline(n: ArchitectureParameter, task: Task, ways: int) -> Layout:
    name, size = f"pipeline {ways}", BYTES[task.dtype]
    try:
        stages = pipeline_stages(n, ways, context=task.context)
    except InputError as error:
        return Layout(name=name, gpus=ways, use=None, refused=str(error))
    uses = []
    for stage in stages:
        numbers = sum(_kept(n, at, task) for at in stage.layers) * task.batch * task.context
        logits = _logits(n.d_vocab, task, rows=task.batch) if stage is stages[-1] else 0
        uses.append(_trained(stage.cost.parameters * size, numbers * size + logits))
    return Layout(name=name, gpus=ways, use=max(uses, key=lambda use: use.total))


def _fully_sharded(n: ArchitectureParameter, task: Task, ways: int) -> Layout:
    """Every rank holds a share of all, gathers one layer at a time, and has rows of its own."""
    name, size = f"FSDP {ways}", BYTES[task.dtype]
    if any(branch.share for layer in n.layers for _, branch in layer.all_branches()) or any(p.share for p in n.layers):
        return Layout(name=name, gpus=ways, use=None, refused="layers of this n share weights")
    before, *layers, behind = costs(n, context=task.context, dtype=task.dtype)
    own = before.parameters + behind.parameters
    parameters = own + sum(layer.parameters for layer in layers)
    gathered = own + max(layer.parameters for layer in layers)
    alone = _whole(n, task, rows=ceil(task.batch / ways))
    share = ceil(parameters / ways) * size
    use = Use(
        weights=share + gathered * size,
        cache=alone.cache,
        activations=alone.activations,
        gradients=share * task.training,
        optimiser=MOMENTS * share * task.training,
    )
    return Layout(name=name, gpus=ways, use=use)


def _whole(n: ArchitectureParameter, task: Task, *, rows: int, vocab: int | None = None) -> Use:
    """One process that computes all of n for so many rows; logits are of the whole `vocab`, n's if not given."""
    counted, size = n.count(context=task.context, dtype=task.dtype), BYTES[task.dtype]
    logits = _logits(vocab or n.d_vocab, task, rows=rows)
    numbers = [_kept(n, at, task) for at in range(len(n.layers))]
    if task.training:
        return _trained(counted.parameters * size, sum(numbers) * rows * task.context * size + logits)
    remembered = counted.cache_bytes_per_token * task.context + counted.fixed_state_bytes
    working = (max(numbers) + 2 * n.d_hidden) * rows * task.context * size
    return Use(weights=counted.parameters * size, cache=ceil(remembered * rows), activations=working + logits)


def _trained(weights: int, activations: int) -> Use:
    return Use(weights=weights, cache=0, activations=activations, gradients=weights, optimiser=MOMENTS * weights)


def _kept(n: ArchitectureParameter, layer: int, task: Task) -> int:
    return kept(n.layers[layer], n.d_hidden * (n.streams.count if n.streams else 1), task.context)


def _logits(vocab: int, task: Task, *, rows: int) -> int:
    """Logits of all positions, their logarithms in float32, and both their gradients; of the last ones alone else."""
    if task.training:
        return rows * task.context * vocab * 2 * (BYTES[task.dtype] + FLOAT32_BYTES)
    return rows * vocab * (BYTES[task.dtype] + FLOAT32_BYTES)
