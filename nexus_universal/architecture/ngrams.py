"""Tables of hashed n-grams, of which every stream of the residual takes its share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm

WORD = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
STRIDE = 10007
"""Between the seeds of one part and the next."""


@part
class HashedNgrams(Part):
    """What the last n tokens say, n = 2 … `order`, gated by every stream and convolved (Qwen4-Exp).

    Each n has `heads` tables: row (⊕_p m_p token_{t−p}) mod r_h of the one for head h, their rows together `width`
    numbers r. Tokens up to the last `separator`, which none need be, count as separators. Per stream s, v = W_v r is
    multiplied by σ(±√|a|), a = norm(W_k r)_s · norm(x)_s / √d, with the sign of a; then y = v + silu(conv(norm(v))), a
    causal convolution per channel whose `kernel` inputs lie `order` positions apart. Each stream's norms have weights
    of its own.

    m follow from `seed` and `vocab` by splitmix64. The r_h are primes from `least` on, those of the `index`th such part
    of a model after those of the part before; the tables are stored as one of a multiple of `padded_to` rows.
    """

    streams: int
    order: int
    heads: int
    width: int
    kernel: int
    norm: Norm
    separator: int
    vocab: int
    least: int
    padded_to: int
    seed: int
    index: int

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.order < 2:
            yield "order", "must be at least 2"
        elif self.width % self.tables:
            yield "width", f"must be a multiple of (order - 1) · heads = {self.tables}"
        if self.index < 0:
            yield "index", "must not be negative"

    @property
    def tables(self) -> int:
        """How many tables there are."""
        return (self.order - 1) * self.heads

    @property
    def reach(self) -> int:
        """How many positions before its own the convolution reads."""
        return (self.kernel - 1) * self.order

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows each table has."""
        return _primes(self.least, (self.index + 1) * self.tables)[self.index * self.tables :]

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each table begins in the one that holds them all."""
        rows = self.rows
        return tuple(sum(rows[:head]) for head in range(len(rows)))

    @property
    def stored_rows(self) -> int:
        """How many rows that one has."""
        return math.ceil(sum(self.rows) / self.padded_to) * self.padded_to

    @property
    def multipliers(self) -> tuple[int, ...]:
        """Odd numbers, by which tokens are multiplied before they are mixed; no product overflows 64 bits."""
        bound = max(1, ((1 << 63) - 1) // self.vocab // 2)
        start = self.seed + STRIDE * self.index
        return tuple(2 * (_mixed((start + GOLDEN * (p + 1)) & WORD) % bound) + 1 for p in range(self.order))


def _mixed(value: int) -> int:
    """One step of splitmix64 (https://prng.di.unimi.it/splitmix64.c)."""
    value = (value + GOLDEN) & WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


@lru_cache
def _primes(least: int, count: int) -> tuple[int, ...]:
    """The first primes that are no smaller."""
    found: list[int] = []
    number = max(least, 2)
    while len(found) < count:
        if all(number % divisor for divisor in range(2, math.isqrt(number) + 1)):
            found.append(number)
        number += 1
    return tuple(found)
