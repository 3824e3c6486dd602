"""Which blocks of keys a query may see, chosen by cheap scores of their means."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.indexers import PooledIndexer
from nexus_universal.cache import PlacedState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.masks import Mask, refused
from nexus_universal.layers.norms import UniversalNorm

Seen = Bool[Tensor, "batch queries keys"]


class UniversalPooledIndexer(nn.Module):
    """Σ_h relu(q_h · k_b) of blocks b of keys, and those with the highest sums; nothing of it has a gradient."""

    def __init__(self, part: PooledIndexer, *, d_in: int, heads: int, plan: CallPlan, rope_index: int | None) -> None:
        super().__init__()
        self.part, self.plan, self.rope_index = part, plan, rope_index
        self.query_key = Linear(d_in, (part.heads + 1) * part.head_dim, bias=False)
        self.query_norm = UniversalNorm.of(part.norm, part.head_dim)
        self.key_norm = UniversalNorm.of(part.norm, part.head_dim)

    def new_state(self) -> State:
        """An empty state of keys, values and this one's keys."""
        return PlacedState()

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "batch seq d_in"], mask: Mask, call: Call, state: State | None) -> Mask:
        """The mask that lets through, of what it did, the best blocks and the keys behind the last whole one."""
        part, positions = self.part, call.positions.expand(x.shape[0], -1)
        heads = self.query_key(x).unflatten(-1, (-1, part.head_dim))
        query, key = self.query_norm(heads[:, :, :-1]).transpose(1, 2), heads[:, :, -1]
        if self.rope_index is not None:
            query = self.plan.ropes[self.rope_index].turned(query, call.tables[self.rope_index])
        if state is not None:
            assert isinstance(state, PlacedState)
            key, positions = state.extend_index(key), state.extend_positions(positions)
        blocks = key.shape[1] // part.rate
        if not blocks:
            return mask
        seen = ~refused(mask[:, 0])
        number, whole = _numbered(seen, part.rate)
        order = (~whole.any(1)).long().argsort(dim=-1, stable=True)[:, : blocks * part.rate]
        members = order.unflatten(-1, (blocks, part.rate))
        pooled = self._pooled(key, positions, members)
        scores = torch.matmul(query.transpose(1, 2).float(), pooled.float().transpose(-1, -2).unsqueeze(1))
        scores = torch.relu(scores).sum(dim=2) / math.sqrt(part.head_dim)
        ready = whole.gather(-1, members[:, None, :, 0].expand(-1, whole.shape[1], -1))
        scores = scores.masked_fill(~ready, float("-inf"))
        best = scores.topk(min(part.keep, blocks), dim=-1).indices
        chosen = torch.zeros_like(ready).scatter(-1, best, True)
        numbers = torch.arange(order.shape[1], device=x.device) // part.rate
        slot = torch.zeros_like(number).scatter(-1, order, numbers.expand_as(order))
        lost = (whole & ~chosen.gather(-1, slot[:, None].expand_as(whole))).unsqueeze(1)
        return mask & ~lost if mask.dtype == torch.bool else mask.masked_fill(lost, torch.finfo(x.dtype).min)

    def _pooled(
        self,
        key: Float[Tensor, "batch keys head_dim"],
        positions: Int[Tensor, "batch keys"],
        members: Int[Tensor, "batch blocks rate"],
    ) -> Float[Tensor, "batch blocks head_dim"]:
        """The means of blocks, normed, and turned as their first keys."""
        rows = members.flatten(1)[..., None].expand(-1, -1, key.shape[-1])
        grouped = key.gather(1, rows).unflatten(1, members.shape[1:])
        pooled = self.key_norm(grouped.float().mean(dim=2).to(key.dtype))
        if self.rope_index is None:
            return pooled
        rope = self.plan.ropes[self.rope_index]
        cos, sin = rope(positions, key.dtype)  # of all keys: some rotations look at the furthest
        first = members[:, :, :1].expand(-1, -1, cos.shape[-1])
        return rope.turned(pooled.unsqueeze(1), (cos.gather(1, first), sin.gather(1, first))).squeeze(1)


def _numbered(seen: Seen, rate: int) -> tuple[Int[Tensor, "batch keys"], Seen]:
    """Each key's block, counted from the first key that its own query sees; and what each query sees of whole blocks.

    Keys from before this call are counted as its first query sees them.
    """
    queries, keys = seen.shape[1:]
    ranks = seen.long().cumsum(-1) - 1
    own = (torch.arange(keys, device=seen.device) - (keys - queries)).clamp(min=0)
    number = ranks[:, own, torch.arange(keys, device=seen.device)].clamp(min=0) // rate
    whole = seen & (number.unsqueeze(1) < (seen.sum(-1, keepdim=True) // rate))
    return number, whole
