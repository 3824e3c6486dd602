"""An average of all values so far, and a feed-forward, both of positions mixed with the one before, as mixers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import DecayedAverage, ShiftedFeedForward
from nexus_universal.cache import AveragedState, RecurrentState
from nexus_universal.layers.activations import relu_squared
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import last_inputs, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.recurrent import RecurrentMixer

NOTHING = -1e38
"""The exponent of what is empty: in float32 its power is 0 beside any other."""

Inputs = Float[Tensor, "batch seq d_hidden"]
Channels = Float[Tensor, "batch width"]


class TokenShift(nn.Module):
    """m ⊙ x_t + (1 − m) ⊙ x_{t−1} with a learned m for each role; zeros stand before the first position."""

    def __init__(self, width: int, *roles: str) -> None:
        super().__init__()
        self.roles = roles
        for role in roles:
            self.register_parameter(role, nn.Parameter(torch.empty(width)))

    def forward(self, x: Inputs, call: Call, state: RecurrentState | None) -> dict[str, Inputs]:
        """What each role reads; `state` gives the input before these and takes the last one."""
        x = without_pads(x, call)
        before = state.convolution if state is not None else None
        seen = F.pad(x, (0, 0, 1, 0)) if before is None else torch.cat([before, x], dim=1)
        if state is not None:
            state.convolution = last_inputs(seen.transpose(1, 2), 1, call.trailing).transpose(1, 2)
        shifted = seen[:, :-1]
        mixes = {role: getattr(self, role) for role in self.roles}
        return {role: x * mix + shifted * (1 - mix) for role, mix in mixes.items()}

    @torch.no_grad()
    def start_mixes(self, *powers: float, later: float) -> None:
        """Each role's m rises from 0 over the channels, by a power of its own; a value's is higher by `later`."""
        width = getattr(self, self.roles[0]).shape[0]
        for role, power in zip(self.roles, powers, strict=True):
            mix = getattr(self, role)
            mix.copy_((torch.arange(width) / width) ** power + (later if role == "value" else 0.0))


class UniversalDecayedAverage(RecurrentMixer[AveragedState]):
    """W_o (σ(r) ⊙ a), a the average of values by e^k, older ones decayed (RWKV, arXiv 2305.13048).

    `decay` is the logarithm of the rate, `bonus` what the newest key gets on top.
    """

    state_kind = AveragedState

    def __init__(
        self, part: DecayedAverage, *, d_model: int, layer_index: int = 0, plan: CallPlan | None = None
    ) -> None:
        super().__init__(plan)
        self.part, self.layer_index = part, layer_index
        self.decay = nn.Parameter(torch.empty(d_model))
        self.bonus = nn.Parameter(torch.empty(d_model))
        self.shift = TokenShift(d_model, "key", "value", "gate")
        self.key = Linear(d_model, d_model, bias=False)
        self.value = Linear(d_model, d_model, bias=False)
        self.gate = Linear(d_model, d_model, bias=False)
        self.output = Linear(d_model, d_model, bias=False)

    @torch.no_grad()
    def start(self, text: Text, *, depth: int) -> None:
        """Decays from slow to fast over the channels, and mixes that look back less the deeper the layer."""
        width, deep, left = self.decay.shape[0], self.layer_index / max(depth - 1, 1), 1 - self.layer_index / depth
        share = torch.arange(width) / max(width - 1, 1)
        self.decay.copy_(-5 + 8 * share ** (0.7 + 1.3 * deep))
        nn.init.ones_(self.bonus)
        self.shift.start_mixes(left, left, 0.5 * left, later=0.3 * deep)

    def mix(self, x: Inputs, call: Call, state: AveragedState | None) -> Inputs:
        mixed = self.shift(x, call, state)
        key, value = self.key(mixed["key"]), self.value(mixed["value"])
        gate = torch.sigmoid(self.gate(mixed["gate"]))
        return self.output(gate * self._average(key, value, call, state))

    def _average(self, key: Inputs, value: Inputs, call: Call, state: AveragedState | None) -> Inputs:
        """Position by position, in float32; what is summed is relative to e^exponent."""
        if state is None or state.recurrent is None:
            total = torch.zeros_like(key[:, 0], dtype=torch.float32)
            weights, exponent = torch.zeros_like(total), torch.zeros_like(total) + NOTHING
        else:
            total, weights, exponent = state.recurrent, state.weights, state.exponent
            assert weights is not None and exponent is not None
        decay, seen = -torch.exp(self.decay), []
        for index in range(key.shape[1]):
            k, v = key[:, index].float(), value[:, index]
            top = torch.maximum(exponent, k + self.bonus)
            old, new = torch.exp(exponent - top), torch.exp(k + self.bonus - top)
            seen.append(((old * total + new * v) / (old * weights + new)).to(key.dtype))
            after = self._step((total, weights, exponent), k, v, decay)
            if call.padding is not None:
                real = call.padding[:, index, None] != 0
                after = [torch.where(real, a, b) for a, b in zip(after, (total, weights, exponent), strict=True)]
            total, weights, exponent = after
        if state is not None:
            state.recurrent, state.weights, state.exponent = total, weights, exponent
        return torch.stack(seen, dim=1)

    @staticmethod
    def _step(
        before: tuple[Channels, Channels, Channels], key: Channels, value: Channels, decay: Float[Tensor, " width"]
    ) -> list[Channels]:
        """The sum, its weights and their exponent after one more position."""
        total, weights, exponent = before
        top = torch.maximum(exponent + decay, key)
        old, new = torch.exp(exponent + decay - top), torch.exp(key - top)
        return [old * total + new * value, old * weights + new, top]


class UniversalShiftedFeedForward(RecurrentMixer[RecurrentState]):
    """σ(W_r x') ⊙ W_d relu(W_u x'')², x' and x'' mixed with the position before (RWKV, arXiv 2305.13048)."""

    def __init__(
        self, part: ShiftedFeedForward, *, d_model: int, layer_index: int = 0, plan: CallPlan | None = None
    ) -> None:
        super().__init__(plan)
        self.part, self.layer_index = part, layer_index
        self.shift = TokenShift(d_model, "up", "gate")
        self.up = Linear(d_model, part.width, bias=False)
        self.gate = Linear(d_model, d_model, bias=False)
        self.down = Linear(part.width, d_model, bias=False)

    @torch.no_grad()
    def start(self, text: Text, *, depth: int) -> None:
        """Mixes that look back less the deeper the layer."""
        left = 1 - self.layer_index / depth
        self.shift.start_mixes(left, left, later=0.0)

    def mix(self, x: Inputs, call: Call, state: RecurrentState | None) -> Inputs:
        mixed = self.shift(x, call, state)
        down = self.down(relu_squared(self.up(mixed["up"])))
        return torch.sigmoid(self.gate(mixed["gate"])) * down
