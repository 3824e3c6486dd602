"""Which known tensor another is nearest to: by a sample of both, so that no tensor is read again to find out."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from nexus_universal.fusion.union.coding import Coding, planes

SAMPLE, GLANCE, TRIED = 4096, 64, 4
WORTH = 0.97
"""A base is taken if the coded tensor is foretold to shrink at least to this share of what it takes alone."""


@dataclass
class _Kind:
    """All tensors of one shape and dtype: names, samples, and a glance at each in one growing table."""

    names: list[str] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    glances: np.ndarray | None = None


class Bases:
    """Tensors that others may be coded against, by shape and dtype."""

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def add(self, kind: Hashable, name: str, sample: np.ndarray) -> None:
        """Remember a tensor by evenly spaced numbers of it."""
        known = self._kinds.setdefault(kind, _Kind())
        row, count = sample[:: _every(sample)], len(known.names)
        if known.glances is None or count == len(known.glances):
            grown = np.zeros((max(8, 2 * count), len(row)), dtype=sample.dtype)
            if known.glances is not None:
                grown[:count] = known.glances
            known.glances = grown
        known.glances[count] = row
        known.names.append(name)
        known.samples.append(sample)

    def nearest(self, kind: Hashable, sample: np.ndarray, coding: Coding) -> str | None:
        """The known tensor against which this one is foretold to take the fewest bytes; None if that saves nothing."""
        known = self._kinds.get(kind)
        if known is None or known.glances is None or not len(sample):
            return None
        differences = known.glances[: len(known.names)] ^ sample[:: _every(sample)]
        distances = np.log2(differences.astype(np.float64) + 1).mean(axis=1)
        likely = np.argsort(distances, kind="stable")[:TRIED]
        costs = [bits(known.samples[index] ^ sample, coding) for index in likely]
        best = int(np.argmin(costs))
        return known.names[likely[best]] if costs[best] < WORTH * bits(sample, coding) else None


def bits(numbers: np.ndarray, coding: Coding) -> float:
    """Bits per number that an entropy coder of its planes takes."""
    total = 0.0
    for plane in planes(numbers, turned=coding.turned):
        counts = np.bincount(plane, minlength=256)
        shares = counts[counts > 0] / len(plane)
        total -= float((shares * np.log2(shares)).sum())
    return total


def _every(sample: np.ndarray) -> int:
    return max(1, len(sample) // GLANCE)
