"""A gated linear recurrence per channel behind a causal convolution, as a mixer."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nexus_universal.architecture.recurrences import GatedLinearRecurrence
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.recurrent import RecurrentMixer

STEEPEST = 1000.0
Channels = Float[Tensor, "batch seq width"]


class _Root(torch.autograd.Function):
    """√x, whose derivative is no steeper than `STEEPEST`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.sqrt(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] / torch.sqrt(torch.clip(4.0 * x, min=1 / STEEPEST**2))


class _SummedConvolution(CausalConvolution):
    """The same convolution, whose single step is a sum of products: other bits than a convolution of one position."""

    def single(self, x: Float[Tensor, "batch channels kernel"]) -> Float[Tensor, "batch channels one"]:
        assert self.bias is not None
        return (torch.sum(x[..., -self.kernel :] * self.weight, dim=-1) + self.bias).unsqueeze(-1)


class UniversalGatedLinearRecurrence(RecurrentMixer[RecurrentState]):
    """RG-LRU between two branches (Griffin, arXiv 2402.19427); `decay` is the paper's Λ.

    The state is forgotten where a text begins, at position 0.
    """

    input_gate_weight: Float[Tensor, "heads channels channels"]
    input_gate_bias: Float[Tensor, "heads channels"]
    recurrence_gate_weight: Float[Tensor, "heads channels channels"]
    recurrence_gate_bias: Float[Tensor, "heads channels"]

    def __init__(self, part: GatedLinearRecurrence, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        self.part = part
        heads, channels = part.heads, part.width // part.heads
        self.gate = Linear(d_model, part.width)
        self.input = Linear(d_model, part.width)
        self.activation = ACTIVATIONS[part.activation]
        self.convolution = _SummedConvolution(part.width, part.convolution, bias=True)
        self.decay = nn.Parameter(torch.empty(part.width))
        for name in ("input_gate", "recurrence_gate"):
            self.register_parameter(f"{name}_weight", nn.Parameter(torch.empty(heads, channels, channels)))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.empty(heads, channels)))
        self.output = Linear(part.width, d_model)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        gate = self.activation(self.gate(x))
        # The reference lets pads into the convolution and the state of the tokens after them; ragged batches must not.
        inner = without_pads(self.input(x), call).transpose(1, 2)
        inner = self.convolution(inner, state, trailing=call.trailing).transpose(1, 2)
        out = self._recur(inner, call.positions[:, :, None] == 0, call, state)
        return self.output(out * gate)

    def _recur(
        self, x: Channels, begins: Bool[Tensor, "rows seq 1"], call: Call, state: RecurrentState | None
    ) -> Channels:
        """h ← a h + √(1 − a²) (i ⊙ x), the state in float32; where a text begins a is 0 and the root is 1."""
        admitted, kept = self._gates(x)
        logs = -8.0 * kept * F.softplus(self.decay)
        kept, square = torch.exp(logs), torch.exp(2 * logs)
        multiplier = begins + ~begins * _Root.apply(1 - square)
        x = x * admitted * multiplier.type(x.dtype)
        kept = kept * ~begins
        if state is not None and call.padding is not None:
            kept, x = kept.masked_fill(call.padding[:, :, None] == 0, 1.0), without_pads(x, call)
        before = state.recurrent if state is not None else None
        if before is not None and x.shape[1] == 1:
            out = kept.float() * before[:, None] + x.float()
            after, out = out[:, -1], out.type(x.dtype)
        else:
            out, after = _scan(x, kept, torch.zeros_like(x[:, 0], dtype=torch.float32) if before is None else before)
        if state is not None:
            state.recurrent = after
        return out

    def _gates(self, x: Channels) -> tuple[Channels, Channels]:
        """How much of x comes in, and how much of the state stays, by one matrix per head each."""
        batch, seq, _ = x.shape
        heads = x.reshape(batch * seq, self.part.heads, -1).permute(1, 0, 2)

        def gated(weight: Tensor, bias: Tensor) -> Channels:
            out = torch.baddbmm(bias[:, None, :], heads, weight)
            return torch.sigmoid(out.transpose(0, 1).reshape(batch, seq, -1))

        admitted = gated(self.input_gate_weight, self.input_gate_bias)
        return admitted, gated(self.recurrence_gate_weight, self.recurrence_gate_bias)


def _scan(x: Channels, kept: Channels, state: Float[Tensor, "batch width"]) -> tuple[Channels, Tensor]:
    """Position by position. Returns every state, in x's dtype, and the last."""
    out = torch.zeros_like(x)
    for index in range(x.shape[1]):
        state = kept[:, index].float() * state + x[:, index].float()
        out[:, index] = state.type(x.dtype)
    return out, state
