"""A merge carried out: tensor by tensor, a few rows at a time, into files that were laid out before."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.files import dtype_named
from nexus_universal.checkpoint.progress import with_progress
from nexus_universal.checkpoint.save import tokenizer_files
from nexus_universal.checkpoint.stream import new_directory, read_rows, row_count
from nexus_universal.fusion.merging.alignment import arranged
from nexus_universal.fusion.merging.blocks import Block
from nexus_universal.fusion.merging.measure import measured
from nexus_universal.fusion.merging.preflight import Input, Job, Opened, Plan, preflight
from nexus_universal.fusion.merging.recipe import Recipe
from nexus_universal.fusion.merging.target import Format, Target
from nexus_universal.fusion.merging.vocabulary import TOKEN_ROWS
from nexus_universal.fusion.retention import RetentionCertificate, Tier, certified
from nexus_universal.generation.settings import GENERATION_CONFIG

LARGEST_BLOCK = 64 << 20
"""Bytes in float32 of the rows of all models that are read at a time; a sixteenth of the largest tensor if less."""

Reader = Callable[[str, int, int], Tensor]
"""Rows of a model's tensor, by its canonical name."""


def merge(
    recipe: Recipe | str | PathLike[str] | Mapping[str, Any],
    out: str | PathLike[str],
    *,
    text: str | None = None,
    format: Format = "auto",
) -> RetentionCertificate:
    """Merge models into a new directory, and measure what is left of each of them.

    Memory stays below three times the largest tensor, however many models there are. `text` is what retention is
    measured on, else random tokens. `format` "auto" is the first model's family's where that can say the result's n,
    else "nexus".

    Example:
        >>> print(merge("recipe.yml", "merged", text=Path("held_out.txt").read_text()))
        merge linear: R3 (promised R3)
          a: R3, max |Δ| 4.2, KL 0.31 nats, 118 flips, 1.204 → 1.311 bits per byte

    Raises:
        NexusError: whatever is wrong with the recipe or its models; nothing is written then.
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.of(dict(recipe)) if isinstance(recipe, Mapping) else Recipe.read(recipe)
    plan = preflight(recipe)
    with new_directory(Path(out)) as beside:
        notes = [*plan.notes, *write_merged(plan, beside, format=format)]
        evidence = measured(beside, plan.directories, lead=plan.lead, vocabulary=plan.vocabulary, text=text)
        if text is None:
            notes.append("measured on random tokens: give text for what counts")
        return certified(f"merge {recipe.method}", Tier.STATISTICAL, *evidence, notes=tuple(notes))


def write_merged(plan: Plan, directory: Path, *, format: Format = "auto") -> list[str]:
    """Fill a directory with the result, tokenizer included; what a reader should know comes back."""
    lead, said, notes = plan.checkpoints[plan.lead], plan.recipe.dtype, []
    readers: dict[str, Reader] = {}
    for model, opened in plan.checkpoints.items():
        readers[model] = partial(read_rows, opened)
        if plan.recipe.align and opened is not lead:
            arrangement = arranged(opened, lead)
            readers[model] = arrangement.read
            notes.append(f"{model}: aligned with {plan.lead}: {arrangement}")
    dtype = dtype_named(said) if said else working_dtype(lead)
    target = Target.of(directory, plan.model, dtype=dtype, format=format, carried=lead.carried())
    jobs = {job.name: job for job in plan.jobs}
    for name in with_progress(lambda name: 4 * math.prod(jobs[name].shape), label="merging")(list(jobs)):
        carry_out(jobs[name], plan, readers, target)
    copy_companions(plan.directories[plan.vocabulary.lead if plan.vocabulary else plan.lead], directory)
    if plan.vocabulary is not None:
        plan.vocabulary.write_tokenizer(directory, plan.directories)
    return notes if target.note is None else [*notes, target.note]


def copy_companions(source: Path, directory: Path) -> None:
    """Copy the tokenizer's files and the settings of generation."""
    for file in (*tokenizer_files(source), source / GENERATION_CONFIG):
        if file.is_file():
            shutil.copyfile(file, directory / file.name)


def working_dtype(opened: Opened) -> torch.dtype:
    """The dtype of a model's largest tensor: some of the small ones are kept in float32 beside any."""
    return opened.dtypes[max(opened.slots, key=lambda name: opened.slots[name].numel())]


def carry_out(job: Job, plan: Plan, readers: Mapping[str, Reader], target: Target) -> None:
    """Make one tensor of the result.

    Raises:
        CheckpointError: whole numbers that models disagree about: they cannot be averaged.
    """
    rows = Rows.of(job, plan, readers)
    if not rows.floating:
        for start, stop in rows.spans:
            first, *others = (rows.read(each, start, stop) for each in job.read)
            if not all(torch.equal(first, other) for other in others):
                raise CheckpointError(f"{job.name}: whole numbers that differ between the models cannot be merged")
            target.write(job.name, first, start=start)
        return
    drawn = {"generator": _generator(plan.recipe.seed, job.name)} if plan.method.draws else {}
    combine = plan.method.prepare(rows, **job.values, **drawn)
    for (start, _), block in zip(rows.spans, rows, strict=True):
        target.write(job.name, combine(block), start=start)


@dataclass(frozen=True)
class Rows:
    """All blocks of one tensor of the result, read anew each time they are gone through."""

    job: Job
    plan: Plan
    readers: Mapping[str, Reader]
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, job: Job, plan: Plan, readers: Mapping[str, Reader]) -> Rows:
        """Blocks of so many rows that those of all models together stay small; a vector is never cut."""
        slot = torch.empty(job.shape, device="meta")
        count = step = row_count(slot)
        if slot.dim() > 1:
            budget = min(LARGEST_BLOCK, plan.largest // 16)
            step = max(1, budget // (4 * slot.shape[-1] * len(job.read)))
        return cls(job, plan, readers, tuple((at, min(at + step, count)) for at in range(0, count, step)))

    @property
    def floating(self) -> bool:
        """Whether these are numbers that can be averaged."""
        first = self.job.read[0]
        return self.plan.checkpoints[first.model].slots[first.name].is_floating_point()

    def __iter__(self) -> Iterator[Block]:
        for start, stop in self.spans:
            rows = torch.stack([self.read(each, start, stop).float() for each in self.job.read])
            yield Block(rows) if self.job.base is None else Block(rows[:-1], rows[-1])

    def read(self, each: Input, start: int, stop: int) -> Tensor:
        """Rows of one model; where it lacks a token the lead's, else the mean of those that have it."""
        reader = self.readers[each.model]
        if self.plan.vocabulary is None or self.job.name not in TOKEN_ROWS:
            return reader(each.name, start, stop)
        return self._by_token(each, start, stop)

    def _by_token(self, each: Input, start: int, stop: int) -> Float[Tensor, " rows *width"]:
        vocabulary = self.plan.vocabulary
        assert vocabulary is not None
        own, lacks = self._token_rows(each.model, each.name, start, stop)
        if not lacks.any():
            return own
        names = {each.model: each.name for each in self.job.read} | {vocabulary.lead: self.job.name}
        found = {model: self._token_rows(model, name, start, stop) for model, name in names.items()}
        having = sum(~missing for _, missing in found.values())
        total = sum(rows.float() for rows, _ in found.values())
        assert isinstance(having, Tensor) and isinstance(total, Tensor)
        wide = (-1, *(1,) * (own.dim() - 1))
        mean = total / having.clamp(min=1).view(wide)
        lead, unknown = found[vocabulary.lead]
        instead = torch.where(unknown.view(wide), mean, lead.float())
        return torch.where(lacks.view(wide), instead, own.float())

    def _token_rows(self, model: str, name: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """A model's own rows for tokens of the result, zero for those that it lacks, and which those are."""
        assert self.plan.vocabulary is not None
        index = self.plan.vocabulary.rows[model][start:stop]
        lacks = index < 0
        whole = self.readers[model](name, 0, self.plan.checkpoints[model].slots[name].shape[0])
        rows = whole[index.clamp(min=0)]
        rows[lacks] = 0
        return rows, lacks


def _generator(seed: int, name: str) -> torch.Generator:
    """Random numbers that depend on the tensor, not on the order in which tensors come."""
    digest = blake2b(f"{seed} {name}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
