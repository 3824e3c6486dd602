"""Softmax attention with any number of key/value heads, with or without a window, rotation, norms and gate."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.mixers import Attention
from nexus_universal.cache import KeyValueState, State, WindowState
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.call import Call, CallPlan, MaskKind
from nexus_universal.layers.kernels import eager_attention, fused_attention, repeat_heads
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.masks import Mask
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.support import refuse_unless


class UniversalAttention(nn.Module):
    """MHA, GQA and MQA by `kv_heads` (arXiv 2305.13245).

    Built from its own part, or from a whole n (then the mixer of layer `layer_index`). Called alone it attends causally
    over its input; inside a model it takes the call's tables, mask and its state.

    Example:
        >>> UniversalAttention(n, layer_index=0)(torch.randn(1, 5, n.d_hidden)).shape
        torch.Size([1, 5, 1024])
    """

    def __init__(
        self,
        part: Any,
        *,
        d_model: int | None = None,
        layer_index: int = 0,
        plan: CallPlan | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(part, Attention):
            part, d_model = _mixer_of(part, layer_index)
        assert d_model is not None
        refuse_unless(
            part,
            causal=True,
            key_scale=None,
            value_norm=None,
            value_is_key=False,
            emit=None,
            reuse=None,
        )
        self.part: Attention = part
        self.plan = plan or CallPlan()
        self.scale = part.softmax_scale(layer_index)
        width, kv_width = part.heads * part.head_dim, part.kv_heads * part.head_dim
        mixed_width = part.heads * part.value_width
        rows = {"query": width, "key": kv_width, "value": part.kv_heads * part.value_width}
        if part.gate:
            rows["gate"] = mixed_width if part.gate.per == "channel" else part.heads
        self.project = InputProjections(
            self, rows, d_in=d_model, packing=part.packing, biases=part.biases, late_bias=part.late_bias
        )
        self.output = Linear(mixed_width, d_model, bias="output" in part.biases, late_bias=part.late_bias)
        self.sinks = nn.Parameter(torch.empty(part.heads)) if part.sinks else None
        if part.qk_norm:
            if part.qk_norm.over == "width" and part.packing:
                refuse_unless(part, packing=())
            self.query_norm = UniversalNorm.of(part.qk_norm.norm, self._norm_width(part.heads))
            self.key_norm = UniversalNorm.of(part.qk_norm.norm, self._norm_width(part.kv_heads))
        self.rope_index = self.plan.rope(part.rope, part.head_dim) if part.rope else None
        if part.log_scale is not None:
            self.plan.log_scales.add(part.log_scale)
        self.mask_index = self.plan.mask(self._mask_kind(), key)

    def _norm_width(self, heads: int) -> int:
        assert self.part.qk_norm is not None
        return self.part.head_dim * (heads if self.part.qk_norm.over == "width" else 1)

    def _mask_kind(self) -> MaskKind:
        part = self.part
        form = "additive" if part.kernel == "eager" else "omissible" if part.kernel == "sdpa" else "always"
        if part.alibi is None:
            return MaskKind(window=part.window, form=form)
        return MaskKind(window=part.window, form=form, alibi=part.alibi, heads=part.heads, scale=self.scale)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return WindowState(self.part.window) if self.part.window else KeyValueState()

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call = call or self.plan.begin(x)
        part, lead = self.part, x.shape[:-1]
        roles = self.project(x)
        query, key = roles["query"], roles["key"]
        if part.qk_norm and part.qk_norm.over == "width":
            query, key = self.query_norm(query), self.key_norm(key)
        query, key = (role.reshape(*lead, -1, part.head_dim) for role in (query, key))
        if part.qk_norm and part.qk_norm.over == "head" and part.qk_norm.when == "before_rope":
            query, key = self.query_norm(query), self.key_norm(key)
        value = roles["value"].reshape(*lead, -1, part.value_width)
        if part.repeat_first and state is None:  # a cache holds each head once: repeating behind it gives the same bits
            key, value = (self._repeated(role) for role in (key, value))
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if self.rope_index is not None:
            query, key = self.plan.ropes[self.rope_index].rotate(query, key, call.tables[self.rope_index])
        if part.qk_norm and part.qk_norm.over == "head" and part.qk_norm.when == "after_rope":
            query, key = self.query_norm(query), self.key_norm(key)
        if part.log_scale is not None:
            query = query * call.query_growth[part.log_scale].type_as(query)
        if state is not None:
            assert isinstance(state, KeyValueState)
            key, value = state.extend(key, value)
        mixed = self._attend(query, key, value, call.masks[self.mask_index])
        if part.gate:
            mixed = self._gated(mixed, roles["gate"])
        return self.output(mixed.reshape(*lead, -1))

    def _repeated(self, role: Float[Tensor, "batch seq kv_heads d"]) -> Float[Tensor, "batch seq heads d"]:
        times = self.part.heads // self.part.kv_heads
        return role.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Mask | None) -> Tensor:
        part = self.part
        if part.kernel == "eager":
            assert mask is not None
            return eager_attention(
                query, key, value, mask=mask, scale=self.scale, softcap=part.softcap, sinks=self.sinks
            )
        if part.repeat_first:
            key, value = (repeat_heads(role, part.heads // role.shape[1]) for role in (key, value))
        broadcast = part.kernel == "sdpa_masked"
        return fused_attention(query, key, value, mask=mask, scale=self.scale, broadcast=broadcast)

    def _gated(self, mixed: Float[Tensor, "batch seq heads d"], gate: Tensor) -> Tensor:
        assert self.part.gate is not None
        lead = mixed.shape[:2]
        opened = ACTIVATIONS[self.part.gate.activation](gate.reshape(*lead, -1))
        if self.part.gate.per == "head":
            return mixed * opened.unsqueeze(-1)
        return mixed.reshape(*lead, -1) * opened


def _mixer_of(n: Any, layer_index: int) -> tuple[Attention, int]:
    """The attention of one layer of a whole n."""
    for branch in n.layers[layer_index].branches():
        if isinstance(branch.part, Attention):
            return branch.part, n.d_hidden
    raise ValueError(f"layer {layer_index} of this n has no softmax attention")
