"""A state space with a decay per channel and state, as a mixer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import ChannelStateSpace
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.starts import start_decays, start_ends, start_step_weight, start_steps

Channels = Float[Tensor, "batch width seq"]
States = Float[Tensor, "batch width n"]


class UniversalChannelStateSpace(RecurrentMixer[RecurrentState]):
    """Mamba (arXiv 2312.00752).

    The rows of `input` are [x | gate], those of `choose` [δ | B | C]; `step` makes Δ of δ. `decay_log` and `skip` are
    the paper's A and D.
    """

    def __init__(self, part: ChannelStateSpace, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        self.part = part
        self.input = Linear(d_model, 2 * part.width, bias="input" in part.biases)
        self.convolution = CausalConvolution(
            part.width, part.convolution, bias=part.convolution_bias, activation=part.activation
        )
        self.choose = Linear(part.width, part.rank + 2 * part.state_dim, bias=False)
        self.step = Linear(part.rank, part.width)
        self.decay_log = nn.Parameter(torch.empty(part.width, part.state_dim))
        self.skip = nn.Parameter(torch.empty(part.width))
        self.output = Linear(part.width, d_model, bias="output" in part.biases)
        self.step_norm, self.b_norm, self.c_norm = (
            UniversalNorm.of(part.inner_norm, width) if part.inner_norm else nn.Identity()
            for width in (part.rank, part.state_dim, part.state_dim)
        )

    def start(self, text: Text, *, depth: int) -> None:
        """As `text` says of Δ and of what is read and written."""
        start_decays(self.decay_log, self.skip)
        start_step_weight(self.step.weight, self.part.rank, text)
        start_steps(self.step.bias, text)
        start_ends(self.convolution.weight, self.output.weight, text, depth=depth)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        before = state.recurrent if state is not None else None
        mixed = self.input(without_pads(x, call))
        if self.input.bias is not None:
            # The reference lets a pad's bias into the convolution of the tokens after it; ragged batches must not.
            mixed = without_pads(mixed, call)
        inner, gate = mixed.transpose(1, 2).chunk(2, dim=1)
        inner = self.convolution(inner, state, trailing=call.trailing)
        inner = without_pads(inner.transpose(1, 2), call)
        part = self.part
        step, b, c = self.choose(inner).split([part.rank, part.state_dim, part.state_dim], dim=-1)
        step, b, c = self.step_norm(step), self.b_norm(b), self.c_norm(c)
        step = self.step.weight @ step.transpose(1, 2) + self.step.bias.to(step.dtype)[:, None]
        step, inner, decay = F.softplus(step), inner.transpose(1, 2), -self.decay_log.float().exp()
        if before is not None and x.shape[1] == 1:
            out, after = channel_step(inner, b, c, step=step, decay=decay, skip=self.skip, gate=gate, state=before)
        else:
            if call.trailing is not None:
                # The reference lets pads behind a row's last token decay its state; ragged batches must not.
                step = step.masked_fill(call.trailing[:, None], 0.0)
            out, after = channel_scan(inner, b, c, step=step, decay=decay, skip=self.skip, gate=gate, state=before)
        if state is not None:
            state.recurrent = after
        return self.output(out.transpose(1, 2).to(x.dtype))


def channel_scan(
    x: Channels,
    b: Float[Tensor, "batch seq n"],
    c: Float[Tensor, "batch seq n"],
    *,
    step: Channels,
    decay: Float[Tensor, "width n"],
    skip: Float[Tensor, " width"],
    gate: Channels,
    state: States | None,
) -> tuple[Channels, States]:
    """Position by position, the state in float32. Returns gated outputs and the last state."""
    kept = torch.exp(decay[None, :, None, :] * step[..., None])
    added = step[..., None] * b[:, None].float() * x[..., None].float()
    state = torch.zeros_like(added[:, :, 0]) if state is None else state
    seen = []
    for index in range(x.shape[-1]):
        state = kept[:, :, index] * state + added[:, :, index]
        seen.append(torch.matmul(state.to(x.dtype), c[:, index].unsqueeze(-1))[:, :, 0])
    out = torch.stack(seen, dim=-1) + x * skip.float()[:, None]
    return out * F.silu(gate), state


def channel_step(
    x: Float[Tensor, "batch width one"],
    b: Float[Tensor, "batch one n"],
    c: Float[Tensor, "batch one n"],
    *,
    step: Float[Tensor, "batch width one"],
    decay: Float[Tensor, "width n"],
    skip: Float[Tensor, " width"],
    gate: Float[Tensor, "batch width one"],
    state: States,
) -> tuple[Float[Tensor, "batch width one"], States]:
    """One position; what leaves the state is in x's dtype."""
    step, x, c = step.float(), x[..., 0], c[:, 0]
    kept = torch.exp(step * decay)
    state = state * kept + step * b.float() * x.float()[..., None]
    out = torch.matmul(state.to(c.dtype), c.unsqueeze(-1)).squeeze(-1) + x * skip
    return (out * F.silu(gate[..., 0])).to(x.dtype)[..., None], state
