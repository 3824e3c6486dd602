"""Groups of positions pooled into one entry each: how far positions are remembered in compressed form (DeepSeek-V4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.cache import CompressedState
from nexus_universal.cache.states import last
from nexus_universal.layers.call import CallPlan
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm

Series = Float[Tensor, "batch seq width"]
Pooled = Float[Tensor, "batch entries head_dim"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Where each row of a ragged call stands: how many tokens it has had, and which of the new positions are tokens."""

    seen: Int[Tensor, " batch"]
    real: Bool[Tensor, "batch seq"]

    @property
    def rank(self) -> Int[Tensor, "batch seq"]:
        """The number of every new token in its row, from 0; that of the token before for a pad."""
        return self.seen[:, None] + self.real.cumsum(-1) - 1


class Compressor(nn.Module):
    """`rate` positions become norm(Σ_j softmax_j(gate x_j + bias_j) ⊙ (value x_j)), rotated at the first of them.

    With `overlap` a second series of the group before takes part; of the first group there is none.
    """

    def __init__(
        self,
        *,
        d_model: int,
        head_dim: int,
        rate: int,
        overlap: bool,
        norm: Norm,
        rope: Rope | None,
        plan: CallPlan,
        series: str,
    ) -> None:
        super().__init__()
        self.head_dim, self.rate, self.overlap, self.plan, self.series = head_dim, rate, overlap, plan, series
        width = head_dim * (2 if overlap else 1)
        self.value = Linear(d_model, width, bias=False)
        self.gate = Linear(d_model, width, bias=False)
        self.bias = nn.Parameter(torch.empty(rate, width))
        self.norm = UniversalNorm.of(norm, head_dim)
        self.rope_index = plan.rope(rope, head_dim) if rope else None

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], state: CompressedState | None, rows: Rows | None
    ) -> Pooled:
        """All entries so far; `rows` is given where the rows differ in length."""
        values, gates = self.value(x), self.gate(x)
        if rows is not None:
            return self._ragged(values, gates, state, rows)
        waiting = self._of(state, "waiting_values"), self._of(state, "waiting_gates")
        if waiting[0] is not None and waiting[1] is not None and waiting[0].shape[1]:
            values, gates = torch.cat([waiting[0], values], dim=1), torch.cat([waiting[1], gates], dim=1)
        groups, known = values.shape[1] // self.rate, self._of(state, "entries")
        used, first = groups * self.rate, 0 if known is None else known.shape[1]
        entries = x.new_zeros(x.shape[0], 0, self.head_dim)
        if groups:
            start = torch.full((1,), first, device=x.device)
            before = self._of(state, "before_values"), self._of(state, "before_gates")
            entries, series = self._pooled(values[:, :used], gates[:, :used], start, before)
            if self.overlap:
                self._put(state, before_values=series[0][:, -1].clone(), before_gates=series[1][:, -1].clone())
        if known is not None:
            entries = torch.cat([known, entries], dim=1) if groups else known
        rest = values.shape[1] - used
        waiting = last(values, rest, dim=1), last(gates, rest, dim=1)
        self._put(state, waiting_values=waiting[0], waiting_gates=waiting[1], entries=entries)
        return entries

    def _of(self, state: CompressedState | None, field: str) -> Tensor | None:
        return None if state is None else getattr(state, f"{self.series}_{field}")

    def _put(self, state: CompressedState | None, **tensors: Tensor) -> None:
        if state is not None:
            for field, tensor in tensors.items():
                setattr(state, f"{self.series}_{field}", tensor)

    def _ragged(self, values: Series, gates: Series, state: CompressedState | None, rows: Rows) -> Pooled:
        """The same where rows differ in length: each row's tokens are put side by side, at the left."""
        batch, seq, _ = values.shape
        groups = (seq + self.rate - 1) // self.rate + 1
        waits, done = rows.seen % self.rate, rows.seen // self.rate
        room = groups * self.rate
        at = torch.where(rows.real, waits[:, None] + rows.real.cumsum(-1) - 1, room)[..., None]
        joined = []
        for new, field in ((values, "waiting_values"), (gates, "waiting_gates")):
            kept, place = self._of(state, field), new.new_zeros(batch, room + 1, new.shape[-1])
            if kept is not None:
                place[:, : kept.shape[1]] = kept
            joined.append(place.scatter(1, at.expand_as(new), new)[:, :room])
        complete = (waits + rows.real.sum(-1)) // self.rate
        before = self._of(state, "before_values"), self._of(state, "before_gates")
        entries, series = self._pooled(joined[0], joined[1], done, before)
        known = self._of(state, "entries")
        if known is not None and state is not None and state.place is not None:
            total = known.shape[1]
        else:
            total = int((done + complete).max())
        place = entries.new_zeros(batch, total + 1, self.head_dim)
        if known is not None:
            place[:, : known.shape[1]] = known
        number = torch.arange(groups, device=values.device)
        target = torch.where(number < complete[:, None], done[:, None] + number, total)[..., None]
        entries = place.scatter(1, target.expand_as(entries), entries)[:, :total]
        left = (complete[:, None] * self.rate + torch.arange(self.rate - 1, device=values.device))[..., None]
        left = left.clamp(max=room - 1)
        last = (complete - 1).clamp(min=0)[:, None, None, None]
        kept = []
        for new, old, empty in zip(series, before, (0.0, float("-inf")), strict=True):
            found = new.gather(1, last.expand(-1, 1, *new.shape[2:]))[:, 0]
            old = torch.full_like(found, empty) if old is None else old
            kept.append(torch.where((complete > 0)[:, None, None], found, old))
        waiting = [each.gather(1, left.expand(-1, -1, each.shape[-1])) for each in joined]
        self._put(state, waiting_values=waiting[0], waiting_gates=waiting[1], entries=entries)
        if self.overlap:
            self._put(state, before_values=kept[0], before_gates=kept[1])
        return entries

    def _pooled(
        self, values: Series, gates: Series, first: Int[Tensor, " rows"], before: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Pooled, tuple[Tensor, Tensor]]:
        """Whole groups' entries, the first of them number `first`; and the series that the next group reads."""
        values = values.unflatten(1, (-1, self.rate))
        gates = gates.unflatten(1, (-1, self.rate)) + self.bias
        series = values[..., : self.head_dim], gates[..., : self.head_dim]
        if self.overlap:
            values, gates = self._overlapped(values, gates, before)
        shares = gates.softmax(dim=2, dtype=torch.float32).to(values.dtype)
        entries = self.norm((values * shares).sum(dim=2))
        if self.rope_index is not None:
            rope = self.plan.ropes[self.rope_index]
            at = (first[:, None] + torch.arange(entries.shape[1], device=entries.device)) * self.rate
            entries = rope.turned(entries.unsqueeze(1), rope(at, entries.dtype)).squeeze(1)
        return entries, series

    def _overlapped(
        self, values: Tensor, gates: Tensor, before: tuple[Tensor | None, Tensor | None]
    ) -> tuple[Float[Tensor, "batch groups both head_dim"], Float[Tensor, "batch groups both head_dim"]]:
        """Each group's second series behind the first series of the group before."""
        shape, rate = (*values.shape[:2], 2 * self.rate, self.head_dim), self.rate
        all_values, all_gates = values.new_zeros(shape), gates.new_full(shape, float("-inf"))
        all_values[:, :, rate:], all_gates[:, :, rate:] = values[..., self.head_dim :], gates[..., self.head_dim :]
        if shape[1] > 1:
            all_values[:, 1:, :rate] = values[:, :-1, :, : self.head_dim]
            all_gates[:, 1:, :rate] = gates[:, :-1, :, : self.head_dim]
        if before[0] is not None and before[1] is not None:
            all_values[:, 0, :rate], all_gates[:, 0, :rate] = before[0], before[1]
        return all_values, all_gates
