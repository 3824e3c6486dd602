"""Compressed convolutional attention (arXiv 2510.04476)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.cache import ConvolvedState, ConvolvedWindowState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import last_inputs, without_pads
from nexus_universal.layers.kernels import fused_attention, repeat_heads
from nexus_universal.layers.linear import Linear

Heads = Float[Tensor, "batch seq heads head_dim"]
KeyHeads = Float[Tensor, "batch seq kv_heads head_dim"]


class UniversalConvolvedAttention(nn.Module):
    """Queries and keys meet their predecessors before they meet each other; half the values come a position late."""

    def __init__(
        self, part: ConvolvedAttention, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__()
        self.part = part
        self.plan = plan or CallPlan()
        self.plan.recurrent = True
        queries, keys = part.heads * part.head_dim, part.kv_heads * part.head_dim
        self.query = Linear(d_model, queries, bias=part.bias)
        self.key = Linear(d_model, keys, bias=part.bias)
        self.value = Linear(d_model, keys // 2, bias=part.bias)
        self.late_value = Linear(d_model, keys // 2, bias=part.bias)
        self.depthwise = Taps(queries + keys, 1, part.depthwise)
        self.grouped = Taps(queries + keys, part.head_dim, part.grouped)
        self.key_scale = nn.Parameter(torch.empty(part.kv_heads))
        self.output = Linear(queries, d_model, bias=part.bias)
        self.rope_index = self.plan.rope(part.rope, part.head_dim)
        self.mask_index = self.plan.mask(part.window, key)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return ConvolvedWindowState(self.part.window) if self.part.window else ConvolvedState()

    def forward(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call = call or self.plan.begin(x)
        assert state is None or isinstance(state, ConvolvedState)
        x = without_pads(x, call)
        query, key = self._convolved(x, call, state)
        value = self._values(x, call, state)
        query, key = (_of_length(heads, self.part.head_dim**0.5) for heads in (query, key))
        key = key * self.key_scale[None, None, :, None]
        query, key = self.plan.ropes[self.rope_index].rotate(
            query.transpose(1, 2), key.transpose(1, 2), call.tables[self.rope_index]
        )
        value = value.transpose(1, 2)
        if state is not None:
            key, value = state.extend(key, value)
        else:
            key = key.contiguous()
        query, mask = query.contiguous(), call.masks[self.mask_index]
        mixed = fused_attention(query, key, value, mask=mask, scale=self.part.head_dim**-0.5)
        return self.output(mixed.reshape(*x.shape[:2], -1))

    def _convolved(self, x: Tensor, call: Call, state: ConvolvedState | None) -> tuple[Heads, KeyHeads]:
        """Queries and keys: convolved, plus the means of what goes into the convolutions."""
        part, lead = self.part, x.shape[:2]
        query, key = self.query(x), self.key(x)
        joint = torch.cat([query, key], dim=-1)
        # With biases the reference lets pads into the convolutions of the tokens after them; ragged batches must not.
        joint = (without_pads(joint, call) if part.bias else joint).transpose(1, 2)
        times = part.heads // part.kv_heads
        repeated = repeat_heads(key.view(*lead, -1, part.head_dim).transpose(1, 2), times).transpose(1, 2)
        query_mean = (query.view(*lead, -1, part.head_dim) + repeated) * 0.5
        key_mean = query_mean.view(*lead, -1, times, part.head_dim).mean(dim=-2)
        if state is not None and state.convolution is not None:
            joint = torch.cat([state.convolution, joint], dim=-1)
        else:
            joint = F.pad(joint, (part.reach, 0))
        if state is not None:
            state.convolution = last_inputs(joint, part.reach, call.trailing)
        joint = self.grouped(self.depthwise(joint)).transpose(1, 2)
        queries = part.heads * part.head_dim
        query, key = joint[..., :queries], joint[..., queries:]
        return (
            query.view(*lead, -1, part.head_dim) + query_mean,
            key.view(*lead, -1, part.head_dim) + key_mean,
        )

    def _values(self, x: Tensor, call: Call, state: ConvolvedState | None) -> Heads:
        """Half of all values are this position's, half the one's before."""
        own, late = self.value(x), self.late_value(x)
        before = None if state is None else state.late
        if before is None:
            before = self.late_value(x.new_zeros(x.shape[0], 1, x.shape[-1]))
        if state is not None:
            state.late = last_inputs(late.transpose(1, 2), 1, call.trailing).transpose(1, 2)
        late = torch.cat([before, late[:, :-1]], dim=1)
        return torch.cat([own, late], dim=-1).view(*x.shape[:2], -1, self.part.head_dim)


class Taps(nn.Module):
    """A convolution over positions within groups of as many channels as it reads, without padding."""

    def __init__(self, channels: int, group: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, group, kernel))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Float[Tensor, "batch channels seq"]) -> Float[Tensor, "batch channels shorter"]:
        return F.conv1d(x, self.weight, self.bias, groups=self.weight.shape[0] // self.weight.shape[1])


def _of_length(heads: Heads, length: float) -> Heads:
    """Each head's vector scaled to this length."""
    return heads * (length / heads.norm(p=2, dim=-1, keepdim=True).clamp_min(torch.finfo(heads.dtype).eps))
