"""Which blocks of keys a query may see, chosen by the best of their keys' cheap scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.indexers import BlockIndexer
from nexus_universal.cache import IndexedState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.masks import Mask, additive, refused
from nexus_universal.layers.norms import UniversalNorm


class UniversalBlockIndexer(nn.Module):
    """max of q_h · k over blocks of keys, and the blocks with the highest; nothing of it has a gradient."""

    def __init__(self, part: BlockIndexer, *, d_in: int, heads: int, plan: CallPlan, rope_index: int | None) -> None:
        super().__init__()
        self.part, self.plan, self.rope_index = part, plan, rope_index
        self.times = heads // part.heads
        self.query = Linear(d_in, part.heads * part.head_dim, bias=False)
        self.key = Linear(d_in, part.head_dim, bias=False)
        self.query_norm = UniversalNorm.of(part.norm, part.head_dim)
        self.key_norm = UniversalNorm.of(part.norm, part.head_dim)

    def new_state(self) -> State:
        """An empty state of keys, values and this one's keys."""
        return IndexedState()

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "batch seq d_in"], mask: Mask, call: Call, state: State | None
    ) -> Float[Tensor, "batch heads queries keys"]:
        """0 where a head's query sees a key of its blocks, and `mask` lets it; the lowest number elsewhere."""
        part = self.part
        query = self.query_norm(self.query(x).unflatten(-1, (part.heads, -1))).transpose(1, 2)
        key = self.key_norm(self.key(x)).unsqueeze(1)
        if self.rope_index is not None:
            query, key = self.plan.ropes[self.rope_index].rotate(query, key, call.tables[self.rope_index])
        key = key.squeeze(1)
        if state is not None:
            assert isinstance(state, IndexedState)
            key = state.extend_index(key)
        seen = ~refused(mask)
        scores = torch.matmul(query.float(), key.float().transpose(-1, -2).unsqueeze(1))
        scores = scores.masked_fill(~seen, float("-inf"))
        block = ((seen.long().cumsum(-1) - 1).clamp(min=0) // part.size).expand(*scores.shape[:2], -1, -1)
        blocks = -(-scores.shape[-1] // part.size)
        best = scores.new_full((*scores.shape[:3], blocks), float("-inf")).scatter_reduce(-1, block, scores, "amax")
        near = (block[..., -1:] - torch.arange(part.near or 0, device=x.device)).clamp(min=0)
        values, chosen = best.scatter(-1, near, float("inf")).topk(min(part.keep, blocks), dim=-1)
        kept = torch.zeros_like(best, dtype=torch.bool).scatter(-1, chosen, values > float("-inf"))
        allowed = kept.gather(-1, block) & seen
        return additive(allowed.repeat_interleave(self.times, dim=1), x.dtype)
