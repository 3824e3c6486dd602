"""Attention whose queries and outputs each token's own experts project."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.feed_forward import RoutedAttention
from nexus_universal.cache import KeyValueState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.experts import UniversalRouter
from nexus_universal.layers.grouped import grouped_linear, sorted_pairs, swift_form
from nexus_universal.layers.kernels import fused_attention
from nexus_universal.layers.linear import InputProjections


class UniversalRoutedAttention(nn.Module):
    """Mixture of attention heads (JetMoE, arXiv 2404.07413); keys and values are the same for all experts."""

    def __init__(
        self, part: RoutedAttention, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        self.part, self.swift = part, False
        self.plan = plan or CallPlan()
        width = part.kv_heads * part.head_dim
        self.router = UniversalRouter(part.router, d_model=d_model, experts=part.experts, per_token=part.per_token)
        self.query = nn.Parameter(torch.empty(part.experts, width, d_model))
        self.project = InputProjections(self, {"key": width, "value": width}, d_in=d_model, packing=part.packing)
        self.output = nn.Parameter(torch.empty(part.experts, d_model, width))
        self.bias = nn.Parameter(torch.empty(d_model))
        self.rope_index = self.plan.rope(part.rope, part.head_dim) if part.rope else None
        self.mask_index = self.plan.mask(None, key)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return KeyValueState()

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call, part, lead = call or self.plan.begin(x), self.part, x.shape[:2]
        flat = x.reshape(-1, x.shape[-1])
        weights, chosen = self.router(flat)
        _, order, ends = sorted_pairs(chosen, part.experts)
        form = swift_form(x.device) if self.swift else "kernel"
        asked = grouped_linear(flat[order // part.per_token], self.query, ends, form=form)
        asked = torch.zeros_like(asked).index_add(0, order, asked)
        roles = {"query": asked, **self.project(x)}
        query, key, value = (role.reshape(*lead, -1, part.head_dim).transpose(1, 2) for role in roles.values())
        if self.rope_index is not None:
            query, key = self.plan.ropes[self.rope_index].rotate(query, key, call.tables[self.rope_index])
        if state is not None:
            assert isinstance(state, KeyValueState)
            key, value = state.extend(key, value)
        key, value = (role.repeat(1, part.per_token, 1, 1) for role in (key, value))
        mask = call.masks[self.mask_index]
        mixed = fused_attention(query, key, value, mask=mask, scale=part.head_dim**-0.5)
        answered = grouped_linear(mixed.reshape(len(order), -1)[order], self.output, ends, form=form)
        answered = (answered * weights.flatten()[order][:, None]).to(x.dtype)
        return torch.zeros_like(flat).index_add(0, order // part.per_token, answered).view_as(x) + self.bias
