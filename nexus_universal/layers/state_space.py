"""A state space as a mixer: one input projection, a causal convolution, the scan, a gated norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import StateSpace
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import SlicedGatedNorm
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.selective_scan import chunked_scan, single_step
from nexus_universal.layers.starts import start_decays, start_ends, start_steps


class UniversalStateSpace(RecurrentMixer[RecurrentState]):
    """Mamba-2 (arXiv 2405.21060), a scalar decay per head.

    The rows of `input` are [gate | x | B | C | Δ]; `decay_log`, `skip` and `step_bias` are the papers' A, D and Δ bias.
    """

    def __init__(self, part: StateSpace, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        self.part = part
        self.width, self.shared = part.heads * part.head_dim, part.groups * part.state_dim
        channels = self.width + 2 * self.shared
        self.input = Linear(d_model, self.width + channels + part.heads, bias="input" in part.biases)
        self.convolution = CausalConvolution(
            channels, part.convolution, bias=part.convolution_bias, activation=part.activation
        )
        self.decay_log = nn.Parameter(torch.empty(part.heads))
        self.skip = nn.Parameter(torch.empty(part.heads))
        self.step_bias = nn.Parameter(torch.empty(part.heads))
        self.norm = (
            SlicedGatedNorm(part.norm, self.width, slices=part.norm_groups, norm_first=part.norm_first)
            if part.norm
            else None
        )
        self.output = Linear(self.width, d_model, bias="output" in part.biases)

    def start(self, text: Text, *, depth: int) -> None:
        """As `text` says of Δ and of what is read and written."""
        start_decays(self.decay_log, self.skip)
        start_steps(nn.init.ones_(self.step_bias), text)
        start_ends(self.convolution.weight, self.output.weight, text, depth=depth)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        before = state.recurrent if state is not None else None
        gate, mixed, step = self._project(without_pads(x, call))
        if self.input.bias is not None:
            # The reference lets a pad's bias into the convolution of the tokens after it; the law of ragged batches
            # does not.
            mixed = without_pads(mixed, call)
        mixed = self.convolution(mixed.transpose(1, 2), state, trailing=call.trailing).transpose(1, 2)
        out, after = self._scan(without_pads(mixed, call), step, call, before)
        if state is not None:
            state.recurrent = after
        out = out * F.silu(gate) if self.norm is None else self.norm(out, gate)
        return self.output(out.to(x.dtype))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gate, what is convolved, and Δ before its bias, as views of one product."""
        out, channels = self.input(x), self.width + 2 * self.shared
        if self.part.input_scales is not None:
            rows = (self.width, self.width, self.shared, self.shared, self.part.heads)
            segments = zip(rows, self.part.input_scales, strict=True)
            out = out * torch.cat([out.new_full((count,), scale) for count, scale in segments])
        return out.split([self.width, channels, self.part.heads], dim=-1)

    def _scan(
        self, mixed: Tensor, step: Tensor, call: Call, state: Tensor | None
    ) -> tuple[Float[Tensor, "batch seq width"], Tensor]:
        """Outputs, float32 from many positions and in the model's dtype from one, and the state after them."""
        part, (batch, seq) = self.part, mixed.shape[:2]
        x, b, c = mixed.split([self.width, self.shared, self.shared], dim=-1)
        decay, bias = -self.decay_log.float().exp(), self.step_bias.to(step.dtype)
        if state is not None and seq == 1:
            x = x.view(batch, part.heads, part.head_dim)
            b, c = (role.view(batch, part.groups, part.state_dim) for role in (b, c))
            # Widened before the softplus, as the reference does: on CPU its bits depend on where the vector tail falls.
            wide = step.transpose(1, 2).expand_as(x) + bias[:, None].expand(-1, part.head_dim)
            out, state = single_step(x, b, c, step=F.softplus(wide), decay=decay, skip=self.skip, state=state)
            return out.view(batch, 1, -1), state
        step = F.softplus(step + bias).clamp(*part.time_step)
        if call.trailing is not None:
            # The reference lets pads behind a row's last token decay its state; the law of ragged batches does not.
            step = step.masked_fill(call.trailing[..., None], 0.0)
        x = x.view(batch, seq, part.heads, part.head_dim)
        b, c = (role.view(batch, seq, part.groups, part.state_dim) for role in (b, c))
        out, state = chunked_scan(x, b, c, step=step, decay=decay, skip=self.skip, state=state, chunk=part.chunk)
        return out.reshape(batch, seq, -1), state
