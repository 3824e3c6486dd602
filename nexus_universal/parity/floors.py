"""How much a reference differs from itself under changes that mean nothing: the tolerance is measured, never chosen."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nexus_universal.parity.modes import Reference, Sample, positions_of

FACTOR = 4.0
INCONCLUSIVE = 1e-3
"""A floor above this share of the largest logit proves nothing."""


@dataclass(frozen=True)
class Floor:
    """Largest change of the reference's logits, by harmless variation; `value` is what a difference may not exceed."""

    changes: dict[str, float] = field(default_factory=dict)
    max_logit: float = 0.0

    @property
    def value(self) -> float:
        """4 × the largest change."""
        return FACTOR * max(self.changes.values(), default=0.0)

    @property
    def conclusive(self) -> bool:
        """Whether a difference within it would still mean something."""
        return self.value <= INCONCLUSIVE * self.max_logit


@torch.no_grad()
def measure_floor(
    reference: Reference, sample: Sample, *, other_attention: Any = None, double: bool = True, steps: bool = True
) -> Floor:
    """Vary batch, threads, steps, attention form and precision of one prefill.

    `other_attention` is the same model with the other attention implementation, where the reference has two. `steps` is
    False where a rotation looks at the whole call: cutting the call is no harmless change then.
    """
    ids = sample.ids

    def full(model: Reference = reference, rows: Tensor = ids) -> Tensor:
        model.begin()
        return model(rows)[: sample.ids.shape[0]].double()

    base = full()

    def stepped() -> Tensor:
        reference.begin()
        cache = reference.new_cache()
        cuts = [sample.prompt, *(1,) * (ids.shape[1] - sample.prompt)]
        return torch.cat([reference(piece, cache=cache) for piece in ids.split(cuts, dim=1)], dim=1).double()

    variations: dict[str, Callable[[], Tensor]] = {"batch x 2": lambda: full(rows=ids.repeat(2, 1))}
    if steps:
        variations["steps"] = stepped
    if other_attention is not None:
        variations["other attention form"] = lambda: full(Reference(other_attention))
    if double and not reference.quirks.not_in_double:
        variations["float64"] = lambda: full(Reference(in_double(reference.model)))
    changes = {name: float((run() - base).abs().max()) for name, run in variations.items()}
    with _threads(1 if torch.get_num_threads() > 1 else 2):
        changes["threads"] = float((full() - base).abs().max())
    return Floor(changes=changes, max_logit=float(base.abs().max()))


@torch.no_grad()
def padding_change(reference: Reference, sample: Sample) -> float:
    """How far the reference's own rows move when they are padded on the left: what its arithmetic allows of that law.

    A chunked recurrence cuts a padded row at other places, which rounds more differently than any variation of a floor.
    """
    mask = sample.mask("left")
    reference.begin()
    together = reference(sample.ids, mask=mask, positions=positions_of(mask))
    worst = 0.0
    for row, real in enumerate(mask.bool()):
        reference.begin()
        alone = reference(sample.ids[row : row + 1, real])[0]
        worst = max(worst, float((together[row, real].double() - alone.double()).abs().max()))
    return worst


@torch.no_grad()
def cutting_change(reference: Reference, sample: Sample) -> float:
    """How far the reference's own logits move when a text is read in chunks: the same for the laws of cutting."""
    reference.begin()
    cache = reference.new_cache()
    pieces = [reference(piece, cache=cache) for piece in sample.ids.split(list(sample.chunks), dim=1)]
    reference.begin()
    return float((torch.cat(pieces, dim=1).double() - reference(sample.ids).double()).abs().max())


def in_double(model: Any) -> Any:
    """The reference in float64; its experts one by one, because torch's grouped product knows no float64."""
    doubled = copy.deepcopy(model).double()
    doubled.config._experts_implementation = "eager"
    return doubled


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
