"""A state space with a decay per channel and state, in heads that choose apart, as a mixer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import ChannelStateSpace
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.channel_state_space import channel_scan, channel_step
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.starts import start_decays, start_ends, start_step_weight, start_steps
from nexus_universal.layers.support import refuse_unless

Heads = Float[Tensor, "heads batch channels seq"]


class UniversalHeadedStateSpace(RecurrentMixer[RecurrentState]):
    """Mamba in heads (Zamba, arXiv 2405.16712).

    The rows of `input` are x and the gate in turn, channel by channel; those of `choose` [δ | B | C], in each head.
    """

    def __init__(self, part: ChannelStateSpace, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        refuse_unless(part, inner_norm=None)
        assert part.heads is not None
        self.part = part
        heads, channels = part.heads, part.width // part.heads
        self.input = Linear(d_model, 2 * part.width, bias="input" in part.biases)
        self.convolution = CausalConvolution(
            part.width, part.convolution, bias=part.convolution_bias, activation=part.activation
        )
        self.choose = nn.Parameter(torch.empty(heads, part.rank + 2 * part.state_dim, channels))
        self.step_weight = nn.Parameter(torch.empty(heads, channels, part.rank))
        self.step_bias = nn.Parameter(torch.empty(heads, channels))
        self.decay_log = nn.Parameter(torch.empty(heads, channels, part.state_dim))
        self.skip = nn.Parameter(torch.empty(heads, channels))
        self.output = Linear(part.width, d_model, bias="output" in part.biases)

    def start(self, text: Text, *, depth: int) -> None:
        """As `text` says of Δ and of what is read and written."""
        start_decays(self.decay_log, self.skip)
        start_step_weight(self.step_weight, self.part.rank, text)
        start_steps(self.step_bias, text)
        start_ends(self.convolution.weight, self.output.weight, text, depth=depth)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        before = state.recurrent if state is not None else None
        batch, seq = x.shape[:2]
        mixed = self.input(without_pads(x, call))
        if self.input.bias is not None:
            # The reference lets a pad's bias into the convolution of the tokens after it; ragged batches must not.
            mixed = without_pads(mixed, call)
        inner, gate = mixed.transpose(1, 2).view(batch, -1, 2, seq).chunk(2, dim=2)
        gate = self._heads(gate, batch, seq)
        inner = self.convolution(inner.squeeze(2).contiguous(), state, trailing=call.trailing)
        inner = self._heads(without_pads(inner.transpose(1, 2), call).transpose(1, 2), batch, seq)
        step, b, c = self._choose(inner)
        out, after = zip(
            *(
                self._scan(head, inner, b, c, step=step, gate=gate, call=call, before=before)
                for head in range(inner.shape[0])
            ),
            strict=True,
        )
        if state is not None:
            state.recurrent = torch.stack(after, dim=1)
        return self.output(torch.cat(out, dim=1).transpose(1, 2).to(x.dtype))

    def _heads(self, x: Tensor, batch: int, seq: int) -> Heads:
        return x.reshape(batch, self.part.heads or 1, -1, seq).transpose(0, 1)

    def _choose(self, x: Heads) -> tuple[Heads, Tensor, Tensor]:
        """Δ before its bias, B and C."""
        part = self.part
        chosen = (self.choose[:, None] @ x).transpose(-1, -2)
        step, b, c = chosen.split([part.rank, part.state_dim, part.state_dim], dim=-1)
        return self.step_weight[:, None] @ step.transpose(-1, -2), b, c

    def _scan(
        self,
        head: int,
        x: Heads,
        b: Tensor,
        c: Tensor,
        *,
        step: Heads,
        gate: Heads,
        call: Call,
        before: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Gated outputs of one head, and its last state."""
        steps = step[head] + self.step_bias[head].float().to(step.dtype)[:, None]
        steps, decay = F.softplus(steps), -self.decay_log.float().exp()[head]
        last = None if before is None else before[:, head]
        parts = (x[head], b[head], c[head])
        if last is not None and x.shape[-1] == 1:
            return channel_step(*parts, step=steps, decay=decay, skip=self.skip[head], gate=gate[head], state=last)
        if call.trailing is not None:
            # The reference lets pads behind a row's last token decay its state; ragged batches must not.
            steps = steps.masked_fill(call.trailing[:, None], 0.0)
        return channel_scan(*parts, step=steps, decay=decay, skip=self.skip[head], gate=gate[head], state=last)
