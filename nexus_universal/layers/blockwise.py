"""Attention of long calls in runs of queries, of which each meets only the keys that some of it see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nexus_universal.architecture.sparsity import BlockSparse
from nexus_universal.layers.masks import Extent

ROWS = 128
"""Queries in a run: fewer make more calls of the kernel, more meet more keys in vain (measured on a CPU)."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """What stands in a mask's place where it would be long and mostly empty: a window or a pattern, without pads."""

    extent: Extent
    window: int | None = None
    sparsity: BlockSparse | None = None

    @property
    def worthwhile(self) -> bool:
        """Whether there are several runs, and a mask that they save."""
        few = self.sparsity is not None or (self.window is not None and self.window < self.extent.keys)
        return few and self.extent.queries >= 2 * ROWS

    def last(self, count: int) -> Blocks:
        """The same for the last `count` queries."""
        earlier = self.extent.queries - count
        return replace(
            self, extent=replace(self.extent, queries=count, query_offset=self.extent.query_offset + earlier)
        )

    def runs(self) -> Iterator[tuple[slice, list[slice]]]:
        """Queries, and the keys that they meet, counted from the first of this call."""
        first, lowest = self.extent.query_offset, self.extent.key_offset
        assert isinstance(first, int) and isinstance(lowest, int)  # a step has no runs
        for start in range(0, self.extent.queries, ROWS):
            end = min(start + ROWS, self.extent.queries)
            yield (
                slice(start, end),
                [slice(max(low - lowest, 0), high - lowest) for low, high in self._spans(first + start, first + end)],
            )

    def _spans(self, start: int, end: int) -> list[tuple[int, int]]:
        if self.sparsity is not None:
            return self.sparsity.spans(start, end)
        assert self.window is not None
        return [(start - self.window + 1, end)]

    def seen(self, queries: slice, keys: Int[Tensor, " keys"]) -> Bool[Tensor, "queries keys"]:
        """True where a query of the run may see one of these keys."""
        at_query = torch.arange(queries.start, queries.stop, device=keys.device)[:, None] + self.extent.query_offset
        at_key = keys + self.extent.key_offset
        seen = at_key <= at_query
        if self.window is not None:
            seen = seen & (at_key > at_query - self.window)
        return seen if self.sparsity is None else seen & self.sparsity.sees(at_query, at_key)


def blockwise_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch heads keys d"],
    value: Float[Tensor, "batch heads keys dv"],
    *,
    blocks: Blocks,
    scale: float,
    bias: Float[Tensor, "batch heads seq keys"] | None = None,
) -> Float[Tensor, "batch seq heads dv"]:
    """softmax(scale · q kᵀ + bias) v over the keys that each query sees, by torch's fused kernel for every run."""
    mixed = []
    for queries, spans in blocks.runs():
        places = _joined([torch.arange(span.start, span.stop, device=query.device) for span in spans], dim=0)
        mask: Tensor = blocks.seen(queries, places)
        if bias is not None:
            lowest = torch.finfo(bias.dtype).min
            mask = torch.where(mask, bias[:, :, queries][..., places], lowest)
        mixed.append(
            F.scaled_dot_product_attention(
                query[:, :, queries],
                _joined([key[:, :, span] for span in spans], dim=2),
                _joined([value[:, :, span] for span in spans], dim=2),
                attn_mask=mask,
                scale=scale,
            )
        )
    return torch.cat(mixed, dim=2).transpose(1, 2).contiguous()


def _joined(pieces: list[Tensor], *, dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
