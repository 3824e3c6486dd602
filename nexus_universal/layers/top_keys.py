"""Only the keys with the highest scores (arXiv 1912.11637)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nexus_universal.layers.kernels import repeat_heads
from nexus_universal.layers.masks import Mask


def top_keys(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    mask: Mask,
    *,
    keep: int,
    scale: float,
    bias: Float[Tensor, "batch heads seq keys"] | None = None,
) -> Mask:
    """The mask, per head, without those keys of a query that are not among its `keep` best.

    Chosen is by float32 scores, with `bias` and what the mask adds; the scores that are mixed by are the kernel's own.
    """
    if key.shape[2] <= keep:
        return mask
    key = repeat_heads(key, query.shape[1] // key.shape[1])
    scores = query.detach().float() @ key.detach().float().transpose(2, 3) * scale
    scores = scores if bias is None else scores + bias.detach()
    seen = mask.dtype == torch.bool
    scores = scores.masked_fill(~mask, -torch.inf) if seen else scores + mask
    best = torch.topk(scores, keep, dim=-1, sorted=False).indices
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)
    return chosen & mask if seen else torch.where(chosen, mask, torch.finfo(mask.dtype).min)
