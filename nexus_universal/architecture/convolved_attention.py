"""Attention whose queries and keys are convolved over positions, as one part of n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Rope


@part
class ConvolvedAttention(Part):
    """Compressed convolutional attention (arXiv 2510.04476): softmax attention over convolved queries and keys.

    [q | k] are projections q', k' behind two causal convolutions, one per channel over `depthwise` positions, then one
    within each head over `grouped` positions, plus m = (q' + k') / 2 for queries and its mean over a group of heads for
    keys. Both are then scaled to the length √head_dim, keys by a learned number per head, too. The first half of all
    values is a projection of x_t, the second one of x_{t-1}. `bias` gives one to every projection.
    """

    role: ClassVar[str] = "mixer"

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope
    depthwise: int
    grouped: int
    window: int | None = None
    bias: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.heads % self.kv_heads:
            yield "kv_heads", f"must divide heads = {self.heads}"
        if self.kv_heads * self.head_dim % 2:
            yield "head_dim", "must be even where kv_heads is odd: one half of all values comes a position late"
        yield from self.rope.problems_in_head(self.head_dim, width="rope.fraction")

    @property
    def reach(self) -> int:
        """How many positions before it both convolutions together see."""
        return self.depthwise + self.grouped - 2
