"""Linear attention with a fixed decay per head, as a mixer: blocks of many positions, steps behind them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.recurrences import LightningAttention
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import without_pads
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.recurrent import RecurrentMixer

Heads = Float[Tensor, "batch heads seq d"]
Matrix = Float[Tensor, "batch heads d d"]


class UniversalLightningAttention(RecurrentMixer[RecurrentState]):
    """Lightning attention (arXiv 2401.04658): S ← exp(−s)·S + kᵀv, o = qS, then a norm and a gate.

    The decays are buffers, because checkpoints hold them: `slope` is s, the others are exp(−s) to the power of the
    distance from a block's start, to its end, and between two of its positions.
    """

    slope: Float[Tensor, "heads 1 1"]
    query_decay: Float[Tensor, "heads block 1"]
    key_decay: Float[Tensor, "heads block 1"]
    pair_decay: Float[Tensor, "1 heads block block"]

    def __init__(
        self, part: LightningAttention, *, d_model: int, layer_index: int = 0, plan: CallPlan | None = None
    ) -> None:
        super().__init__(plan)
        self.part, self.layer_index = part, layer_index
        heads, block, width = part.heads, part.block, part.heads * part.head_dim
        rows: dict[str, int] = dict.fromkeys(("query", "key", "value"), width)
        self.project = InputProjections(self, rows, d_in=d_model, packing=part.packing)
        self.activation = ACTIVATIONS[part.activation]
        self.norm = UniversalNorm.of(part.norm, width)
        self.gate = Linear(d_model, width, bias=False)
        self.output = Linear(width, d_model, bias=False)
        for name, shape in (("query_decay", (heads, block, 1)), ("key_decay", (heads, block, 1))):
            self.register_buffer(name, torch.empty(shape))
        self.register_buffer("slope", torch.empty(heads, 1, 1))
        self.register_buffer("pair_decay", torch.empty(1, heads, block, block))

    @torch.no_grad()
    def start(self, text: Text, *, depth: int) -> None:
        """The decays that the part and the layer's index say."""
        part = self.part
        share = 1 - self.layer_index / (part.depth - 1 + 1e-5) + 1e-5
        self.slope.copy_(((2 ** (-8 / part.heads)) ** (torch.arange(part.heads) + 1) * share)[:, None, None])
        place = torch.arange(part.block, device=self.slope.device) + 1
        self.query_decay.copy_(torch.exp(-self.slope * place[:, None]))
        self.key_decay.copy_(torch.exp(-self.slope * (part.block - place[:, None])))
        distance = self.slope * (place[:, None] - place)
        self.pair_decay.copy_(torch.where(distance >= 0, -distance, float("-inf")).exp())

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        part, (batch, seq) = self.part, x.shape[:2]
        roles = self.project(x, lambda out: without_pads(self.activation(out), call))
        query, key, value = (
            roles[name].reshape(batch, seq, part.heads, part.head_dim).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        before = state.recurrent if state is not None else None
        if before is None:
            out, after = self._blocks(query, key, value, call.trailing)
        else:
            out, after = self._steps(query, key, value, before, call.trailing)
        if state is not None:
            state.recurrent = after
        out = self.norm(out.transpose(1, 2).reshape(batch, seq, -1))
        return self.output(torch.sigmoid(self.gate(x)) * out)

    def _blocks(
        self, query: Heads, key: Heads, value: Heads, trailing: Bool[Tensor, "batch seq"] | None
    ) -> tuple[Heads, Matrix]:
        """All positions from the first on: pairs inside a block, the state for what lies before it."""
        state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
        seen = []
        for start in range(0, query.shape[2], self.part.block):
            here = slice(start, min(start + self.part.block, query.shape[2]))
            q, k, v, size = query[:, :, here], key[:, :, here], value[:, :, here], here.stop - start
            until_end, whole = self._decays(size, None if trailing is None else trailing[:, here])
            inside = (q @ k.transpose(-1, -2) * self.pair_decay[:, :, :size, :size]) @ v
            seen.append((q * self.query_decay[:, :size]) @ state + inside)
            state = state * whole + (k * until_end).transpose(-1, -2) @ v
        return torch.cat(seen, dim=-2), state

    def _decays(self, size: int, trailing: Bool[Tensor, "batch size"] | None) -> tuple[Tensor, Tensor]:
        """What is left of each key and of the state when a block of `size` ends."""
        until_end, whole = self.key_decay[:, -size:], torch.exp(-self.slope * size)
        if trailing is None:
            return until_end, whole
        # The reference lets pads behind a row's last token decay its state; the law of ragged batches does not.
        count = (size - trailing.sum(-1))[:, None, None, None]
        left = (count - 1 - torch.arange(size, device=count.device)[:, None]).clamp_min(0)
        ends_here = trailing.any(-1)[:, None, None, None]
        own, own_whole = torch.exp(-self.slope * left), torch.exp(-self.slope * count)
        return torch.where(ends_here, own, until_end), torch.where(ends_here, own_whole, whole)

    def _steps(
        self, query: Heads, key: Heads, value: Heads, state: Matrix, trailing: Bool[Tensor, "batch seq"] | None
    ) -> tuple[Heads, Matrix]:
        """Position by position after others."""
        ratio, seen = torch.exp(-self.slope), []
        for index in range(query.shape[2]):
            here = slice(index, index + 1)
            kept = ratio if trailing is None else torch.where(trailing[:, here, None, None], 1.0, ratio)
            state = kept * state + key[:, :, here].transpose(-1, -2) @ value[:, :, here]
            seen.append(query[:, :, here] @ state)
        return torch.cat(seen, dim=-2), state
