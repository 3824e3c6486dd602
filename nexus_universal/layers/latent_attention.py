"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.mixers import LatentAttention, SparseIndexer
from nexus_universal.cache import IndexedState, KeyValueState, State, WindowState
from nexus_universal.layers.blockwise import Blocks
from nexus_universal.layers.call import Call, CallPlan, MaskKind
from nexus_universal.layers.kernels import eager_attention, fused_attention
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.masks import Mask
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.sparse_indexer import ReusedSelection, UniversalSparseIndexer
from nexus_universal.layers.support import refuse_unless
from nexus_universal.layers.swift_attention import swift_attention


class UniversalLatentAttention(nn.Module):
    """Keys and values expand from one normed latent; the cache holds that latent and the one rotated key."""

    swift = False

    def __init__(
        self, part: LatentAttention, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        if part.gate:
            widths = "none" if part.gate.wide == "activation" else part.gate.wide
            refuse_unless(part.gate, activation="sigmoid", wide=widths, head_bias=False)
        self.part = part
        self.plan = plan or CallPlan()
        if part.gate and not part.joint_gate:
            rows = part.heads * (part.value_dim if part.gate.per == "channel" else 1)
            self.gate = Linear(d_model, rows, bias=False)
        query_width = part.heads * part.head_dim
        if part.query_rank is None:
            self.query = Linear(d_model, query_width, bias=False)
        else:
            self.query_down = Linear(d_model, part.query_rank, bias="query_down" in part.biases)
            self.query_norm = UniversalNorm.of(part.latent_norm, part.query_rank)
            if part.joint_gate:
                self.query_gate = Linear(2 * part.query_rank, query_width + part.heads * part.value_dim, bias=False)
            else:
                self.query_up = Linear(part.query_rank, query_width, bias=False)
        self.latent_down = Linear(d_model, part.latent_rank + part.rope_dim, bias="latent_down" in part.biases)
        self.latent_norm = UniversalNorm.of(part.latent_norm, part.latent_rank)
        self.key_rope_norm = UniversalNorm.of(part.rope_norm, part.rope_dim) if part.rope_norm else None
        self.latent_up = Linear(part.latent_rank, part.heads * (part.nope_dim + part.value_dim), bias=False)
        self.output = Linear(part.heads * part.value_dim, d_model, bias="output" in part.biases)
        self.query_scales = {"query": None, "latent": None, part.query_scale_on: part.query_scale}
        self.rope_index = self.plan.rope(part.rope, part.rope_dim) if part.rope else None
        self.indexer = self._indexer(d_model)
        self.sinks = nn.Parameter(torch.empty(part.heads)) if part.sinks else None
        form = "additive" if part.sinks else "always" if self.indexer else "omissible"
        self.mask_index = self.plan.mask(MaskKind(window=part.window, form=form), key)

    def _indexer(self, d_model: int) -> nn.Module | None:
        """What narrows the mask, called (input, query latent, mask, call, state)."""
        part = self.part
        if isinstance(part.indexer, SparseIndexer):
            assert part.query_rank is not None
            return UniversalSparseIndexer(part.indexer, d_model=d_model, query_rank=part.query_rank, plan=self.plan)
        return ReusedSelection(part.indexer) if part.indexer else None

    def new_state(self) -> State:
        """An empty state for this mixer."""
        if isinstance(self.part.indexer, SparseIndexer):
            return IndexedState()
        return KeyValueState() if self.part.window is None else WindowState(self.part.window)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call = call or self.plan.begin(x)
        part, (batch, seq) = self.part, x.shape[:2]
        gate = self.gate(x) if part.gate and not (part.late_gate or part.joint_gate) else None
        down = x if part.query_rank is None else self.query_down(x)
        query_latent = x if part.query_rank is None else _times(self.query_norm(down), self.query_scales["latent"])
        if part.joint_gate:
            both = self.query_gate(torch.cat([query_latent, down], dim=-1)).view(batch, seq, part.heads, -1)
            query, gate = both.split([part.head_dim, part.value_dim], dim=-1)
            gate = gate.reshape(batch, seq, -1)
        else:
            query = (self.query if part.query_rank is None else self.query_up)(query_latent)
        query = query.view(batch, seq, part.heads, part.head_dim).transpose(1, 2)
        query_nope, query_rope = (
            _times(half, self.query_scales["query"]) for half in query.split([part.nope_dim, part.rope_dim], dim=-1)
        )

        latent, key_rope = self.latent_down(x).split([part.latent_rank, part.rope_dim], dim=-1)
        latent = _times(self.latent_norm(latent), part.latent_scale).view(batch, 1, seq, part.latent_rank)
        key_rope = key_rope.view(batch, 1, seq, part.rope_dim)
        if self.key_rope_norm is not None:
            key_rope = self.key_rope_norm(key_rope)
        if self.rope_index is not None:
            rope = self.plan.ropes[self.rope_index]
            query_rope, key_rope = rope.rotate(query_rope, key_rope, call.tables[self.rope_index])
        if state is not None:
            assert isinstance(state, KeyValueState)
            latent, key_rope = state.extend(latent, key_rope)

        mask = call.masks[self.mask_index]
        if self.indexer is not None:
            mask = self.indexer(x, query_latent, mask, call, state)
        if self._absorbs(seq, state):
            assert not isinstance(mask, Blocks)  # a single query is no run of queries
            mixed = self._attend_latent(query_nope, query_rope, latent, key_rope, mask)
        else:
            key, value = self.expand(latent, key_rope)
            mixed = self._attend(torch.cat((query_nope, query_rope), dim=-1), key, value, mask)
        gate = self.gate(x) if part.late_gate else gate
        if gate is not None:
            opened = gate.reshape(batch, seq, part.heads, -1)
            wide = part.gate is not None and part.gate.wide == "product"
            mixed = (mixed * torch.sigmoid(opened.float() if wide else opened)).to(mixed.dtype)
        return self.output(mixed.reshape(batch, seq, -1))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | Blocks | None) -> Tensor:
        if self.sinks is None:
            attend = swift_attention if self.swift else fused_attention
            return attend(query, key, value, mask=mask, scale=self.part.softmax_scale)
        assert isinstance(mask, Tensor)
        return eager_attention(
            query, key, value, mask=mask, scale=self.part.softmax_scale, sinks=self.sinks, shifted=True
        )

    def _absorbs(self, seq: int, state: State | None) -> bool:
        """Whether one query looks at latents as they are; a matrix that was adapted or rounded is not taken apart."""
        plain = type(self.latent_up) is Linear and type(self.latent_up.weight) is nn.Parameter
        return self.swift and seq == 1 and state is not None and self.sinks is None and plain

    def _attend_latent(
        self,
        query_nope: Float[Tensor, "batch heads one nope"],
        query_rope: Float[Tensor, "batch heads one rope"],
        latent: Float[Tensor, "batch one keys rank"],
        key_rope: Float[Tensor, "batch one keys rope"],
        mask: Mask | None,
    ) -> Float[Tensor, "batch one heads dv"]:
        """The same without expanding: `latent_up` is absorbed by query and output (DeepSeek-V2, section 2.1).

        All heads are queries to one key, which is also the value; what that gives of the rotated part is dropped.
        """
        part = self.part
        expand = self.latent_up.weight.view(part.heads, -1, part.latent_rank)
        to_key, to_value = expand.split([part.nope_dim, part.value_dim], dim=1)
        absorbed = torch.bmm(query_nope.squeeze(2).transpose(0, 1), to_key).transpose(0, 1)
        query = torch.cat([absorbed, query_rope.squeeze(2)], dim=-1).unsqueeze(1)
        key = torch.cat([latent, key_rope], dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, key, attn_mask=mask, scale=part.softmax_scale)
        mixed = mixed[:, 0, :, : part.latent_rank].permute(1, 2, 0)
        return torch.bmm(to_value, mixed).permute(2, 0, 1).unsqueeze(1)

    def expand(
        self, latent: Float[Tensor, "batch one keys rank"], key_rope: Float[Tensor, "batch one keys rope"]
    ) -> tuple[Float[Tensor, "batch heads keys d"], Float[Tensor, "batch heads keys dv"]]:
        """Per-head keys and values of a latent; every head's key ends in the same rotated part."""
        part = self.part
        batch, _, keys, _ = latent.shape
        expanded = self.latent_up(latent).view(batch, keys, part.heads, -1).transpose(1, 2)
        key_nope, value = expanded.split([part.nope_dim, part.value_dim], dim=-1)
        return torch.cat((key_nope, key_rope.expand(-1, part.heads, -1, -1)), dim=-1), value


def _times(x: Float[Tensor, "*lead width"], scale: float | None) -> Float[Tensor, "*lead width"]:
    return x if scale is None else x * scale
