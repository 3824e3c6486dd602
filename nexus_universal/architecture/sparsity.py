"""Which earlier keys a query keeps: by their place, or by their scores."""

from __future__ import annotations

from typing import TypeVar

from nexus_universal.architecture.part import Part, part

P = TypeVar("P")
"""Positions: a whole number, or a tensor of them."""


@part
class BlockSparse(Part):
    """The blocks of `block` positions that are near, and those that all see (Longformer, arXiv 2004.05150).

    A query sees its own block, the `local_blocks` - 1 before it, and the first `global_blocks`: a causal form of
    BigBird's pattern (arXiv 2007.14062) without its random blocks.
    """

    block: int
    local_blocks: int = 2
    global_blocks: int = 1

    def sees(self, query: P, key: P) -> P:
        """Whether a query keeps a key that is not behind it."""
        near = query // self.block - key // self.block < self.local_blocks  # type: ignore[operator]
        return near | (key < self.global_blocks * self.block)  # type: ignore[operator]

    def spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """The runs of keys, none behind another's start, that hold all that queries `start` to `end` - 1 see."""
        first = min(self.global_blocks * self.block, end)
        near = max((start // self.block - self.local_blocks + 1) * self.block, first)
        return [(low, high) for low, high in ((0, first), (near, end)) if low < high]


@part
class Strided(Part):
    """The last `local` positions, the query's own included, and every `stride`-th before it (arXiv 1904.10509)."""

    stride: int
    local: int

    def sees(self, query: P, key: P) -> P:
        """Whether a query keeps a key that is not behind it."""
        distance = query - key  # type: ignore[operator]
        return (distance < self.local) | (distance % self.stride == 0)


@part
class TopK(Part):
    """The `keys` keys with the highest scores, for every head and query (arXiv 1912.11637).

    Scores are compared in float32, with what is added by position, and before a softcap.
    """

    keys: int
