"""Tables of hashed n-grams, gated by every stream of the residual and convolved over the sequence."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.cache import NgramState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import last_inputs, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import SlicedNorm
from nexus_universal.layers.tables import Table

StreamsOf = Float[Tensor, "batch seq streams d_hidden"]
LEAST_MATCH = 1e-6
"""Under the root that a gate is taken of."""


class UniversalHashedNgrams(nn.Module):
    """What a table says of the last tokens, as much of it as each stream asks for (Qwen4-Exp)."""

    multipliers: Int[Tensor, " order"]
    rows: Int[Tensor, " tables"]
    offsets: Int[Tensor, " tables"]

    def __init__(self, part: HashedNgrams, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__()
        self.part, self.d_model = part, d_model
        self.plan = plan or CallPlan()
        self.plan.recurrent = self.plan.reads_tokens = True
        wide = part.streams * d_model
        for name, count in (("multipliers", part.order), ("rows", part.tables), ("offsets", part.tables)):
            self.register_buffer(name, torch.empty(count, dtype=torch.long))
        self.table = Table(part.stored_rows, part.width // part.tables)
        self.key = Linear(part.width, wide, bias=False)
        self.value = Linear(part.width, d_model, bias=False)
        self.key_norm = SlicedNorm(part.norm, wide, slices=part.streams)
        self.query_norm = SlicedNorm(part.norm, wide, slices=part.streams)
        self.convolution_norm = SlicedNorm(part.norm, wide, slices=part.streams)
        self.convolution = nn.Parameter(torch.empty(wide, part.kernel))

    @torch.no_grad()
    def start(self, text: Text, *, depth: int) -> None:
        """The convolution adds nothing."""
        self.start_hashes()
        nn.init.zeros_(self.convolution)

    def start_hashes(self) -> None:
        """Tokens are hashed by the numbers that n says."""
        for name in ("multipliers", "rows", "offsets"):
            buffer = getattr(self, name)
            setattr(self, name, torch.tensor(getattr(self.part, name), dtype=torch.long, device=buffer.device))

    def new_state(self) -> State:
        """An empty state: the last tokens, and the last inputs of the convolution."""
        return NgramState()

    def forward(self, x: StreamsOf, call: Call, state: State | None = None) -> StreamsOf:
        """What is added to every stream.

        Raises:
            InputError: a call that says no ids.
        """
        assert state is None or isinstance(state, NgramState)
        streams = (self.part.streams, self.d_model)
        rows = self.table(self._hashed(call, state)).flatten(-2)
        key = self.key_norm(self.key(rows)).unflatten(-1, streams)
        value = self.value(rows)
        query = self.query_norm(x.flatten(2)).unflatten(-1, streams)
        match = (key * query).sum(dim=-1, keepdim=True) / math.sqrt(self.d_model)
        match = match.abs().clamp_min(LEAST_MATCH).sqrt() * match.sign()
        gated = torch.sigmoid(match) * value.unsqueeze(-2)
        normed = without_pads(self.convolution_norm(gated.flatten(-2)), call)
        said = without_pads(gated.flatten(-2), call)
        return (said + self._convolved(normed, call, state)).unflatten(-1, streams)

    def _convolved(
        self, x: Float[Tensor, "batch seq wide"], call: Call, state: NgramState | None
    ) -> Float[Tensor, "batch seq wide"]:
        reach, inputs = self.part.reach, x.transpose(1, 2)
        before = None if state is None else state.convolution
        inputs = F.pad(inputs, (reach, 0)) if before is None else torch.cat([before, inputs], dim=-1)
        if state is not None:
            state.convolution = last_inputs(inputs, reach, call.trailing)
        weight = self.convolution.unsqueeze(1)
        out = F.conv1d(inputs, weight, dilation=self.part.order, groups=weight.shape[0])
        return F.silu(out).transpose(1, 2)

    def _hashed(self, call: Call, state: NgramState | None) -> Int[Tensor, "batch seq tables"]:
        """The rows that speak of the n-grams which end at each token."""
        part, tokens = self.part, call.tokens
        if tokens is None:
            raise InputError("this model looks up what tokens follow each other: give input_ids")
        if call.padding is not None:
            tokens = torch.where(call.padding.bool(), tokens, part.separator)
        before = tokens.new_full((tokens.shape[0], part.order - 1), part.separator)
        if state is not None and state.tokens is not None:
            before = state.tokens
        history = torch.cat([before, tokens], dim=-1)
        if state is not None:
            state.tokens = last_inputs(history[:, None], part.order - 1, call.trailing)[:, 0]
        places = torch.arange(history.shape[1], device=history.device)
        ends = torch.where(history == part.separator, places, -1).cummax(dim=1).values
        since = places - 1 - F.pad(ends, (1, -1), value=-1)
        mixed, found = history * self.multipliers[0], []
        for shift in range(1, part.order):
            shifted = torch.where(since >= shift, F.pad(history, (shift, -shift)), part.separator)
            mixed = torch.bitwise_xor(mixed, shifted * self.multipliers[shift])
            heads = slice((shift - 1) * part.heads, shift * part.heads)
            found.append(torch.remainder(mixed.unsqueeze(-1), self.rows[heads]) + self.offsets[heads])
        return torch.cat(found, dim=-1)[:, -tokens.shape[1] :]
