"""Attention to a window of vectors that are key and value at once, and to compressed entries of what lies before."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nexus_universal.architecture.mixers import CompressedAttention, SparseIndexer
from nexus_universal.cache import CompressedState, State
from nexus_universal.layers.call import Call, CallPlan, MaskKind
from nexus_universal.layers.compressor import Compressor, Rows
from nexus_universal.layers.kernels import eager_attention
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm, bare_rms

Visible = Bool[Tensor, "rows seq entries"]


class UniversalCompressedAttention(nn.Module):
    """DeepSeek-V4's attention: one key/value vector per position for all heads, sinks, and a grouped output."""

    def __init__(
        self, part: CompressedAttention, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        self.part = part
        self.plan = plan or CallPlan()
        width, rank = part.heads * part.head_dim, part.output_groups * part.output_rank
        self.query_down = Linear(d_model, part.query_rank, bias=False)
        self.query_norm = UniversalNorm.of(part.latent_norm, part.query_rank)
        self.query_up = Linear(part.query_rank, width, bias=False)
        self.shared = Linear(d_model, part.head_dim, bias=False)
        self.shared_norm = UniversalNorm.of(part.latent_norm, part.head_dim)
        self.output_down = Linear(width // part.output_groups, rank, bias=False)
        self.output_up = Linear(rank, d_model, bias=False)
        self.sinks = nn.Parameter(torch.empty(part.heads))
        self.rope_index = self.plan.rope(part.rope, part.head_dim)
        self.mask_index = self.plan.mask(MaskKind(window=part.window, form="additive"), key)
        self.compressor = self.indexer = None
        if part.rate is not None:
            self.plan.recurrent = True
            settings = {"d_model": d_model, "rate": part.rate, "overlap": part.overlap, "plan": self.plan}
            self.compressor = Compressor(
                head_dim=part.head_dim, norm=part.latent_norm, rope=part.rope, series="entry", **settings
            )
            if part.indexer:
                self.indexer = EntryIndexer(part.indexer, query_rank=part.query_rank, **settings)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return CompressedState(self.part.window, rate=self.part.rate)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call, part, lead = call or self.plan.begin(x), self.part, x.shape[:2]
        assert state is None or isinstance(state, CompressedState)
        rope, tables = self.plan.ropes[self.rope_index], call.tables[self.rope_index]
        latent = self.query_norm(self.query_down(x))
        query = self.query_up(latent).view(*lead, -1, part.head_dim).transpose(1, 2)
        query = rope.turned(bare_rms(query, part.latent_norm.eps), tables)
        shared = rope.turned(self.shared_norm(self.shared(x)).unsqueeze(1), tables)
        if state is not None:
            shared = state.extend_shared(shared)
        mask = call.masks[self.mask_index]
        assert isinstance(mask, Tensor)
        if self.compressor is not None:
            rows = _rows(x, call, state)
            entries = self.compressor(x, state, rows)
            mask = torch.cat([mask, self._entry_mask(x, latent, entries, mask, call, state, rows)], dim=-1)
            shared = torch.cat([shared, entries.unsqueeze(1)], dim=2)
        scale = part.head_dim**-0.5
        mixed = eager_attention(query, shared, shared, mask=mask, scale=scale, sinks=self.sinks, shifted=True)
        cos, sin = tables
        mixed = rope.turned(mixed.transpose(1, 2), (cos, -sin)).transpose(1, 2)
        return self.output_up(self._grouped(mixed.reshape(*lead, part.output_groups, -1)).flatten(2))

    def _entry_mask(
        self,
        x: Tensor,
        latent: Tensor,
        entries: Tensor,
        mask: Tensor,
        call: Call,
        state: CompressedState | None,
        rows: Rows | None,
    ) -> Float[Tensor, "batch one seq entries"]:
        """0 where a query may see an entry, -inf elsewhere."""
        assert self.part.rate is not None
        complete = ((call.positions if rows is None else rows.rank) + 1) // self.part.rate
        ready = torch.arange(entries.shape[1], device=x.device) < complete.unsqueeze(-1)
        seen = ready if self.indexer is None else self.indexer(x, latent, ready, call, state, rows)
        hidden = torch.zeros((), dtype=mask.dtype, device=x.device).masked_fill(~seen, float("-inf"))
        return hidden.unsqueeze(1).expand(x.shape[0], 1, x.shape[1], -1)

    def _grouped(self, x: Float[Tensor, "batch seq groups inner"]) -> Float[Tensor, "batch seq groups rank"]:
        """Each group of heads through a projection of its own."""
        groups = self.part.output_groups
        weight = self.output_down.weight.view(groups, -1, x.shape[-1]).transpose(1, 2)
        out = torch.bmm(x.reshape(-1, groups, x.shape[-1]).transpose(0, 1), weight).transpose(0, 1)
        return out.reshape(*x.shape[:2], groups, -1)


def _rows(x: Tensor, call: Call, state: CompressedState | None) -> Rows | None:
    """Where the rows stand, once a call has had pads; what is kept is told from then on by row.

    The reference pools pads like tokens, so that padding a row on the left changes it; here it does not.
    """
    counts = None if state is None else state.counts
    if call.padding is None and counts is None:
        return None
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if call.padding is None else call.padding.bool()
    if counts is None:
        seen = 0 if call.cache is None else call.cache.length
        counts = torch.full(x.shape[:1], seen, device=x.device)
    if state is not None:
        state.counts = counts + real.sum(-1)
    return Rows(seen=counts, real=real)


class EntryIndexer(nn.Module):
    """Which of the entries that are ready a query sees: those that cheap scores rank best."""

    def __init__(
        self, part: SparseIndexer, *, query_rank: int, d_model: int, rate: int, overlap: bool, plan: CallPlan
    ) -> None:
        super().__init__()
        self.part, self.plan = part, plan
        self.compressor = Compressor(
            d_model=d_model,
            head_dim=part.head_dim,
            rate=rate,
            overlap=overlap,
            norm=part.key_norm,
            rope=part.rope,
            plan=plan,
            series="index",
        )
        self.query = Linear(query_rank, part.heads * part.head_dim, bias=False)
        self.weigh = Linear(d_model, part.heads, bias=False)
        self.rope_index = plan.rope(part.rope, part.head_dim) if part.rope else None

    @torch.no_grad()
    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        latent: Float[Tensor, "batch seq rank"],
        ready: Visible,
        call: Call,
        state: CompressedState | None,
        rows: Rows | None,
    ) -> Bool[Tensor, "batch seq entries"]:
        """True for the entries that each query sees. Nothing is learned through a choice."""
        keys = self.compressor(x, state, rows)
        query = self.query(latent).unflatten(-1, (-1, self.part.head_dim)).transpose(1, 2)
        if self.rope_index is not None:
            query = self.plan.ropes[self.rope_index].turned(query, call.tables[self.rope_index])
        scores = torch.matmul(query.transpose(1, 2).float(), keys.transpose(-1, -2).float().unsqueeze(1))
        scores = torch.relu(scores) * self.part.head_dim**-0.5
        weights = self.weigh(x).float() * self.part.heads**-0.5
        scores = (scores * weights.unsqueeze(-1)).sum(dim=2).masked_fill(~ready, float("-inf"))
        best = scores.topk(min(self.part.keep, scores.shape[-1]), dim=-1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True) & ready
