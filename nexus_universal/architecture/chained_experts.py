"""Experts whose routers pass what they know from layer to layer, as one part of n."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class ChainedExperts(Part):
    """One expert per token, or none, chosen by a small network that continues the one of the layer before (ZAYA1).

    r = W x + b, plus a learned vector times the layer before's r where `chained`; p = softmax(V₃ gelu(V₂ gelu(V₁
    norm(r)))) over the experts and doing nothing. The best of p + a learned bias is chosen, its weight is p. `width` is
    that of r.
    """

    role: ClassVar[str] = "feed_forward"

    experts: int
    expert: FeedForward
    width: int
    norm: Norm
    chained: bool

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.expert.gated or self.expert.biases or self.expert.packing or self.expert.inner_norm:
            yield "expert", "must be gated, without biases, packing and inner_norm"
