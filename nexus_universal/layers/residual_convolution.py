"""Causal convolutions beside a residual path: what keys, values and branches pass where positions mix early."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.residual_convolution import DynamicConvolution, ResidualConvolution
from nexus_universal.cache import RecurrentState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, last_inputs, without_pads
from nexus_universal.layers.linear import Linear

Vectors = Float[Tensor, "batch seq width"]


class UniversalResidualConvolution(nn.Module):
    """x plus each channel's convolution, in float32. Within a mixer its inputs are kept in a `field` of the state."""

    def __init__(
        self, part: ResidualConvolution, *, d_model: int, plan: CallPlan | None = None, field: str = "convolution"
    ) -> None:
        super().__init__()
        self.part, self.field = part, field
        self.plan = plan or CallPlan()
        self.plan.recurrent = True
        self.convolution = CausalConvolution(d_model, part.kernel, wide=True)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return RecurrentState()

    def forward(self, x: Vectors, call: Call | None = None, state: State | None = None) -> Vectors:
        call, wide = call or self.plan.begin(x), x.float()
        inputs = without_pads(wide, call).transpose(1, 2)
        mixed = self.convolution(inputs, state, trailing=call.trailing, field=self.field)
        total = mixed.transpose(1, 2) + wide
        return (total / math.sqrt(self.part.kernel + 1) if self.part.divided else total).to(x.dtype)


class UniversalDynamicConvolution(nn.Module):
    """The same with taps of which half is projected from a vector, head by head."""

    def __init__(
        self, part: DynamicConvolution, *, channels: int, d_model: int, heads: int, plan: CallPlan, field: str
    ) -> None:
        super().__init__()
        self.part, self.heads, self.field = part, heads, field
        plan.recurrent = True
        self.taps = nn.Parameter(torch.empty(part.kernel, channels))
        self.project = Linear(d_model, heads * part.kernel, bias=False)

    def start(self, text: Text, *, depth: int) -> None:
        """No tap but the learned ones."""
        nn.init.zeros_(self.taps)

    def forward(
        self, x: Vectors, z: Float[Tensor, "batch seq given"], call: Call, state: State | None = None
    ) -> Vectors:
        """x is what z was projected to."""
        kernel, seq, split = self.part.kernel, x.shape[1], (self.heads, -1, self.part.kernel)
        own = self.project(z).float().unflatten(-1, (self.heads, 1, kernel))
        taps = self.taps.float().T.view(split) + own
        wide = x.float()
        seen = without_pads(wide, call).transpose(1, 2)
        if state is not None:
            before = getattr(state, self.field)
            seen = seen if before is None else torch.cat([before, seen], dim=-1)
            setattr(state, self.field, last_inputs(seen, kernel, call.trailing))
        seen = F.pad(seen, (kernel - 1, 0))[..., -(seq + kernel - 1) :]
        windows = seen.unfold(-1, kernel, 1).flip(-1).transpose(1, 2)
        mixed = (windows.reshape(*x.shape[:2], *split) * taps).sum(-1).reshape(x.shape)
        return ((mixed + wide) / math.sqrt(2 * kernel + 1)).to(x.dtype)
