"""What rounding changes in the logits: never silent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CACHE_SAMPLE = (2, 256)
"""Rows and tokens that a rounded cache is measured on where none are given."""

PIECE = 8
"""So many tokens are read at once: a call sees its own positions unrounded."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What rounding changed: mean KL divergence in nats, the share of positions whose likeliest token is another."""

    kind: str
    kl: float
    flips: float
    rounded: float
    """The share that was rounded; of parameters: tables, heads, norms and stacked experts are not."""
    of: str = "parameters"

    def __str__(self) -> str:
        share = f"{self.rounded:.0%} of the {self.of}"
        return f"{self.kind}, {share}: KL {self.kl:.2e} nats, {self.flips:.2%} of the likeliest tokens changed"


def drawn(vocab: int, shape: tuple[int, int]) -> Int[Tensor, "rows tokens"]:
    """Random tokens, always the same."""
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(0))


def compared(
    kind: str,
    before: Float[Tensor, "batch seq vocab"],
    after: Float[Tensor, "batch seq vocab"],
    *,
    rounded: float,
    of: str,
) -> Quality:
    """How far logits moved."""
    left, right = (F.log_softmax(logits.float(), dim=-1).flatten(0, 1) for logits in (before, after))
    kl = F.kl_div(right, left, log_target=True, reduction="batchmean")
    flips = (left.argmax(-1) != right.argmax(-1)).float().mean()
    return Quality(kind=kind, kl=float(kl), flips=float(flips), rounded=rounded, of=of)


@torch.no_grad()
def rounded_cache(model: Any, kind: str, *, sample: Int[Tensor, "batch seq"] | None = None) -> Quality:
    """What a cache of this kind changes for `model` while it reads `sample` piece by piece; said on stderr.

    The share is that of bytes saved, at the sample's end.
    """
    if sample is None:
        rows, tokens = CACHE_SAMPLE
        sample = drawn(model.n.d_vocab, (rows, min(tokens, model.n.text.context or tokens)))
    sample = sample.to(model.device)
    caches = [model.new_cache(kind=each) for each in ("exact", kind)]
    before, after = (torch.cat(list(_read(model, sample, cache)), dim=1) for cache in caches)
    exact, held = (cache.nbytes for cache in caches)
    quality = compared(kind, before, after, rounded=1 - held / max(exact, 1), of="cache saved")
    print(f"cache rounded to {quality}", file=sys.stderr)
    return quality


def _read(model: Any, sample: Tensor, cache: Any) -> Iterator[Tensor]:
    for piece in sample.split(PIECE, dim=1):
        yield model(piece, cache=cache).logits
