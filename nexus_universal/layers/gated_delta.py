"""The gated delta rule as a mixer: packed projections, a causal convolution, the recurrence, a gated norm."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution
from nexus_universal.layers.delta_rule import chunked_delta_rule, recurrent_delta_rule
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.norms import GatedNorm
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.starts import start_steps
from nexus_universal.layers.support import refuse_unless


class UniversalGatedDelta(RecurrentMixer[RecurrentState]):
    """Gated DeltaNet (arXiv 2412.06464) with a scalar decay per value head."""

    def __init__(
        self, part: GatedDeltaRule, *, d_model: int, plan: CallPlan | None = None, key: str | None = None
    ) -> None:
        super().__init__(plan)
        refuse_unless(part, decay="head", low_rank=None)
        self.part = part
        self.key_width, self.value_width = part.key_heads * part.key_dim, part.value_heads * part.value_dim
        rows = {
            "query": self.key_width,
            "key": self.key_width,
            "value": self.value_width,
            "beta": part.value_heads,
            "decay": part.value_heads,
            "gate": self.value_width,
        }
        # Packed roles are multiplied first, and the rest in the references' order: gradients' bits depend on it.
        order = dict.fromkeys((*(role for packed in part.packing for role in packed.roles), *rows))
        self.project = InputProjections(self, {role: rows[role] for role in order}, d_in=d_model, packing=part.packing)
        parts = (self.key_width, self.key_width, self.value_width)
        self.convolution = CausalConvolution(
            sum(parts), part.convolution, activation=part.activation, cut=part.cut, parts=parts
        )
        self.decay_log = nn.Parameter(torch.empty(part.value_heads))
        self.decay_bias = nn.Parameter(torch.empty(part.value_heads))
        self.norm = GatedNorm(part.norm, part.value_dim, activation=part.gate_activation)
        self.output = Linear(self.value_width, d_model, bias=False)

    def start(self, text: Text, *, depth: int) -> None:
        """Decays are log U, with bias 1, or as steps start."""
        self.decay_log.uniform_(*text.decay_range).log_()
        nn.init.ones_(self.decay_bias)
        start_steps(self.decay_bias, text)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        part, (batch, seq) = self.part, x.shape[:2]
        if call.padding is not None:
            x = (x * call.padding[:, :, None]).to(x.dtype)
        roles = self.project(x)
        mixed = torch.cat([roles[name].reshape(batch, seq, -1) for name in ("query", "key", "value")], dim=-1)
        mixed = mixed.transpose(1, 2)
        mixed = self.convolution(mixed, state, trailing=call.trailing).transpose(1, 2)
        query, key, value = mixed.split([self.key_width, self.key_width, self.value_width], dim=-1)
        query, key = (role.reshape(batch, seq, part.key_heads, part.key_dim) for role in (query, key))
        value = value.reshape(batch, seq, part.value_heads, part.value_dim)

        beta = roles["beta"].reshape(batch, seq, -1).sigmoid()
        beta = beta if part.beta_range == 1.0 else beta * part.beta_range
        step = roles["decay"].reshape(batch, seq, -1).float() + self.decay_bias
        decay = -self.decay_log.float().exp() * F.softplus(step)
        if call.trailing is not None:
            # The reference lets pads behind a row's last token decay its state; the law of ragged batches does not.
            beta, decay = (gate.masked_fill(call.trailing[..., None], 0.0) for gate in (beta, decay))
        before = state.recurrent if state is not None else None
        if before is not None and seq == 1:
            out, after = recurrent_delta_rule(query, key, value, decay=decay, beta=beta, state=before)
        else:
            out, after = chunked_delta_rule(query, key, value, decay=decay, beta=beta, state=before, chunk=part.chunk)
        if state is not None:
            state.recurrent = after
        # Split to heads first: on CPU the gate's bits depend on its memory layout, and the reference copies no earlier.
        gate = roles["gate"].reshape(batch, seq, -1, part.value_dim).reshape(-1, part.value_dim)
        out = self.norm(out.reshape(-1, part.value_dim), gate)
        return self.output(out.reshape(batch, seq, -1))
