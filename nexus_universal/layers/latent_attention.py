"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.mixers import LatentAttention, SparseIndexer
from nexus_universal.cache import IndexedState, KeyValueState, State
from nexus_universal.layers.call import Call, CallPlan, MaskKind
from nexus_universal.layers.kernels import fused_attention
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.sparse_indexer import ReusedSelection, UniversalSparseIndexer
from nexus_universal.layers.support import refuse_unless


class UniversalLatentAttention(nn.Module):
    """Keys and values expand from one normed latent; the cache holds that latent and the one rotated key."""

    def __init__(
        self, part: LatentAttention, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        refuse_unless(part, query_scale=None, latent_scale=None, gate=None, sinks=False)
        self.part = part
        self.plan = plan or CallPlan()
        query_width = part.heads * part.head_dim
        if part.query_rank is None:
            self.query = Linear(d_model, query_width, bias=False)
        else:
            self.query_down = Linear(d_model, part.query_rank, bias="query_down" in part.biases)
            self.query_norm = UniversalNorm.of(part.latent_norm, part.query_rank)
            self.query_up = Linear(part.query_rank, query_width, bias=False)
        self.latent_down = Linear(d_model, part.latent_rank + part.rope_dim, bias="latent_down" in part.biases)
        self.latent_norm = UniversalNorm.of(part.latent_norm, part.latent_rank)
        self.latent_up = Linear(part.latent_rank, part.heads * (part.nope_dim + part.value_dim), bias=False)
        self.output = Linear(part.heads * part.value_dim, d_model, bias="output" in part.biases)
        self.rope_index = self.plan.rope(part.rope, part.rope_dim) if part.rope else None
        self.indexer = self._indexer(d_model)
        self.mask_index = self.plan.mask(MaskKind(form="always" if self.indexer else "omissible"), key)

    def _indexer(self, d_model: int) -> nn.Module | None:
        """What narrows the mask, called (input, query latent, mask, call, state)."""
        part = self.part
        if isinstance(part.indexer, SparseIndexer):
            assert part.query_rank is not None
            return UniversalSparseIndexer(part.indexer, d_model=d_model, query_rank=part.query_rank, plan=self.plan)
        return ReusedSelection(part.indexer) if part.indexer else None

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return IndexedState() if isinstance(self.part.indexer, SparseIndexer) else KeyValueState()

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call = call or self.plan.begin(x)
        part, (batch, seq) = self.part, x.shape[:2]
        query_latent = x if part.query_rank is None else self.query_norm(self.query_down(x))
        query = (self.query if part.query_rank is None else self.query_up)(query_latent)
        query = query.view(batch, seq, part.heads, part.head_dim).transpose(1, 2)
        query_nope, query_rope = query.split([part.nope_dim, part.rope_dim], dim=-1)

        latent, key_rope = self.latent_down(x).split([part.latent_rank, part.rope_dim], dim=-1)
        latent = self.latent_norm(latent).view(batch, 1, seq, part.latent_rank)
        key_rope = key_rope.view(batch, 1, seq, part.rope_dim)
        if self.rope_index is not None:
            rope = self.plan.ropes[self.rope_index]
            query_rope, key_rope = rope.rotate(query_rope, key_rope, call.tables[self.rope_index])
        if state is not None:
            assert isinstance(state, KeyValueState)
            latent, key_rope = state.extend(latent, key_rope)

        key, value = self.expand(latent, key_rope)
        query = torch.cat((query_nope, query_rope), dim=-1)
        mask = call.masks[self.mask_index]
        if self.indexer is not None:
            mask = self.indexer(x, query_latent, mask, call, state)
        mixed = fused_attention(query, key, value, mask=mask, scale=part.softmax_scale)
        return self.output(mixed.reshape(batch, seq, -1))

    def expand(
        self, latent: Float[Tensor, "batch one keys rank"], key_rope: Float[Tensor, "batch one keys rope"]
    ) -> tuple[Float[Tensor, "batch heads keys d"], Float[Tensor, "batch heads keys dv"]]:
        """Per-head keys and values of a latent; every head's key ends in the same rotated part."""
        part = self.part
        batch, _, keys, _ = latent.shape
        expanded = self.latent_up(latent).view(batch, keys, part.heads, -1).transpose(1, 2)
        key_nope, value = expanded.split([part.nope_dim, part.value_dim], dim=-1)
        return torch.cat((key_nope, key_rope.expand(-1, part.heads, -1, -1)), dim=-1), value
