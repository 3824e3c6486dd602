"""The delta rule with a decay per key channel as a mixer: a causal convolution, the recurrence, a gated norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.mixers import LowRank
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.channel_delta_rule import channel_delta_step, chunked_channel_delta_rule
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.low_rank import UniversalLowRank
from nexus_universal.layers.norms import LateRoundedGatedNorm
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.starts import start_steps
from nexus_universal.layers.support import KeepsFloat32, refuse_unless

LINEAR_ABOVE = 20.0


class UniversalChannelDelta(KeepsFloat32, RecurrentMixer[RecurrentState]):
    """Kimi delta attention (arXiv 2510.26692); `decay` and `gate` may each be two thin matrices."""

    def __init__(
        self, part: GatedDeltaRule, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__(plan)
        refuse_unless(part, packing=(), beta_range=1.0)
        self.part = part
        self.width, self.values = part.key_heads * part.key_dim, part.value_heads * part.value_dim
        self.query = Linear(d_model, self.width, bias=False)
        self.key = Linear(d_model, self.width, bias=False)
        self.value = Linear(d_model, self.values, bias=False)
        self.convolution = CausalConvolution(
            2 * self.width + self.values,
            part.convolution,
            activation=part.activation,
            cut=part.cut,
            wide=part.stored == "float32",
            parts=(self.width, self.width, self.values),
        )
        self.decay = _thin(d_model, self.width, part.low_rank)
        self.decay_log = nn.Parameter(torch.empty(part.key_heads))
        self.decay_bias = nn.Parameter(torch.empty(self.width))
        self.in_float32 = ("decay_log", "decay_bias") if part.stored == "float32" else ()
        self.beta = Linear(d_model, part.key_heads, bias=False)
        self.gate = _thin(d_model, self.values, part.low_rank)
        self.norm = LateRoundedGatedNorm(part.norm, part.value_dim, activation=part.gate_activation)
        self.output = Linear(self.values, d_model, bias=False)

    def start(self, text: Text, *, depth: int) -> None:
        """Decays are log U, with bias 1, or as steps start."""
        self.decay_log.uniform_(*text.decay_range).log_()
        nn.init.ones_(self.decay_bias)
        start_steps(self.decay_bias, text)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        part, (batch, seq) = self.part, x.shape[:2]
        x = without_pads(x, call)
        mixed = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1).transpose(1, 2)
        mixed = self.convolution(mixed, state, trailing=call.trailing).transpose(1, 2)
        query, key, value = (
            role.view(batch, seq, part.key_heads, -1)
            for role in mixed.split([self.width, self.width, self.values], dim=-1)
        )
        decay, beta = self._decays(x), torch.sigmoid(self.beta(x))
        if call.trailing is not None and state is not None:
            # The reference lets pads behind a row's last token decay its state; the law of ragged batches does not.
            behind = call.trailing[..., None]
            decay, beta = decay.masked_fill(behind[..., None], 0.0), beta.masked_fill(behind, 0.0)
        before = state.recurrent if state is not None else None
        if before is not None and seq == 1:
            out, after = channel_delta_step(query, key, value, decay=decay, beta=beta, state=before)
        else:
            out, after = chunked_channel_delta_rule(
                query, key, value, decay=decay, beta=beta, state=before, chunk=part.chunk
            )
        if state is not None:
            state.recurrent = after
        gate = self.gate(x).view(batch, seq, -1, part.value_dim)
        return self.output(self.norm(out, gate).reshape(batch, seq, -1))

    def _decays(self, x: Float[Tensor, "batch seq d_hidden"]) -> Float[Tensor, "batch seq heads k"]:
        """g of every key channel, in log space."""
        part, step = self.part, self.decay(x).float()
        heads = (*x.shape[:2], part.key_heads, part.key_dim)
        if part.decay_form == "written":
            step, rate = (step + self.decay_bias.float()).view(heads), self.decay_log.float().exp()[:, None]
            return -rate * torch.where(step > LINEAR_ABOVE, step, torch.log(1.0 + torch.exp(step)))
        step, rate = step.view(heads) + self.decay_bias.view(heads[2:]), self.decay_log.exp()[:, None]
        if part.decay_floor is not None:
            return (part.decay_floor * torch.sigmoid(rate * step)).to(x.dtype)
        return (-rate * F.softplus(step)).to(x.dtype)


def _thin(d_in: int, d_out: int, rank: int | None) -> nn.Module:
    """A projection, or a product of two with `rank` numbers between them."""
    if rank is None:
        return Linear(d_in, d_out, bias=False)
    return UniversalLowRank(LowRank(rank=rank), d_model=d_in, d_out=d_out)
