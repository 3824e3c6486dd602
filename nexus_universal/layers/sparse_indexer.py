"""DeepSeek sparse attention (V3.2): which keys a query may see, chosen by cheap scores or by an earlier layer."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.mixers import ReusedIndices, SparseIndexer
from nexus_universal.cache import IndexedState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.masks import Mask
from nexus_universal.layers.norms import UniversalNorm

Chosen = Int[Tensor, "batch queries keep"]


class UniversalSparseIndexer(nn.Module):
    """Σ_h w_h · relu(q_h · k), and the keys with the highest sums; nothing of it has a gradient."""

    def __init__(self, part: SparseIndexer, *, d_model: int, query_rank: int, plan: CallPlan) -> None:
        super().__init__()
        self.part, self.plan = part, plan
        self.query = Linear(query_rank, part.heads * part.head_dim, bias=False)
        self.key = Linear(d_model, part.head_dim, bias=False)
        self.key_norm = UniversalNorm.of(part.key_norm, part.head_dim)
        self.weights = Linear(d_model, part.heads, bias=False)
        self.rope_index = plan.rope(part.rope, part.rope_dim or part.head_dim) if part.rope else None

    @torch.no_grad()
    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        latent: Float[Tensor, "batch seq query_rank"],
        mask: Mask,
        call: Call,
        state: State | None,
    ) -> Mask:
        """The mask that lets through the chosen keys among those of `mask`; `latent` is that of the queries."""
        part, (batch, seq) = self.part, x.shape[:2]
        query = self.query(latent).view(batch, seq, part.heads, part.head_dim).transpose(1, 2)
        key = self.key_norm(_in_its_dtype(self.key_norm, self.key(x))).to(x.dtype).unsqueeze(1)
        if self.rope_index is not None:
            rope, tables = self.plan.ropes[self.rope_index], call.tables[self.rope_index]
            wide = rope.part.rounded == "kept"
            query, key = (rope.turned(side, tables, wide=wide) for side in (query, key))
        query, key = query.transpose(1, 2), key.squeeze(1)
        if state is not None:
            assert isinstance(state, IndexedState)
            key = state.extend_index(key)
        scores = torch.matmul(query.float(), key.transpose(-1, -2).float().unsqueeze(1))
        weights = self.weights(_in_its_dtype(self.weights, x)).float() * part.heads**-0.5
        if part.scale_on == "scores":
            scores = scores * part.head_dim**-0.5
        else:
            weights = weights * part.head_dim**-0.5
        total = torch.matmul(weights.unsqueeze(-2), torch.relu(scores)).squeeze(-2)
        seen = mask[:, 0]
        total = total.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else total + seen
        chosen = total.topk(min(part.keep, total.shape[-1]), dim=-1).indices
        if part.emit:
            call.emitted[part.emit] = (chosen,)
        return _only(mask, chosen, x.dtype)


def _in_its_dtype(module: nn.Module, x: Tensor) -> Tensor:
    """A module's input in the dtype of its weights, which some models keep in float32."""
    weight = module.weight
    return x.to(weight.dtype) if isinstance(weight, Tensor) else x


class ReusedSelection(nn.Module):
    """The keys that an earlier layer's indexer chose and emitted."""

    def __init__(self, part: ReusedIndices) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor, latent: Tensor, mask: Mask, call: Call, state: State | None) -> Mask:
        """The mask that lets through those of its keys."""
        return _only(mask, call.emitted[self.part.reuse][0], x.dtype)


def _only(mask: Mask, chosen: Chosen, dtype: torch.dtype) -> Mask:
    """What the mask lets through of the chosen keys."""
    lost = torch.ones_like(mask[:, 0], dtype=torch.bool).scatter(-1, chosen, False).unsqueeze(1)
    return mask & ~lost if mask.dtype == torch.bool else mask.masked_fill(lost, torch.finfo(dtype).min)
