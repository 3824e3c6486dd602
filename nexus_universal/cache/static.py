"""Caches whose steps find everything where it was in the step before: what a compiled or recorded step needs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.cache import Cache
from nexus_universal.cache.states import BridgeState, CompressedState, Count, KeyValueState, State, WindowState, last

ROOM = 256
"""The least number of positions that there is room for; doubled when they are used up."""


def any_loose(states: Mapping[str, State]) -> bool:
    """Whether the shapes of some state cannot be known before: what a bridge reads goes at another pace."""
    return any(isinstance(state, BridgeState) for state in states.values())


def refuse_loose(states: Mapping[str, State]) -> None:
    """A static cache must know the shapes of all its states.

    Raises:
        InputError: one of them is a bridge's.
    """
    for key, state in states.items():
        if isinstance(state, BridgeState):
            raise InputError(f"cache = 'static': {key} reads another model, whose steps are not this one's")


def fixed(state: State, place: Tensor, *, room: int, length: int) -> State:
    """A copy whose tensors keep their shapes in steps: what grows gets `room`, a window is filled up at its left."""
    made = copy.copy(state)
    if isinstance(made, CompressedState):
        _fix_compressors(made, room=room, length=length)
        state = made
    for name, value in state.tensors().items():
        if name in state.grows:
            dim, shape = state.grows[name], list(value.shape)
            shape[dim] = room
            whole = value.new_zeros(shape)
            whole.narrow(dim, 0, value.shape[dim]).copy_(value)
        elif isinstance(state, WindowState) and name in WindowState.fields:
            missing = state.window - 1 - value.shape[-2]
            whole = torch.cat([value.new_zeros((*value.shape[:-2], missing, value.shape[-1])), value], dim=-2)
        else:
            whole = value.clone(memory_format=torch.contiguous_format)
        setattr(made, name, whole)
    if isinstance(made, KeyValueState):
        made.place = place
    return made


def loosened(state: State, length: int) -> State:
    """What `fixed` made of a state, when it has seen `length` positions, as one that grows again."""
    made = copy.copy(state)
    for name, value in state.tensors().items():
        if name in state.grows:
            setattr(made, name, value.narrow(state.grows[name], 0, length))
        elif isinstance(state, WindowState) and name in WindowState.fields:
            setattr(made, name, last(value, min(length, state.window - 1), dim=-2))
    if isinstance(made, CompressedState) and made.counts is not None and made.rate:
        groups = int(made.counts.max()) // made.rate
        for name in ("entry_entries", "index_entries"):
            if (entries := getattr(made, name)) is not None:
                setattr(made, name, entries[:, :groups])
    if isinstance(made, KeyValueState):
        made.place = None
    return made


def _fix_compressors(state: CompressedState, *, room: int, length: int) -> None:
    """Rows that are counted, entries for all there is room for, and a group that waits, or was before, as a whole."""
    if state.rate is None:
        return
    for series in ("entry", "index"):
        entries, waiting = (getattr(state, f"{series}_{field}") for field in ("entries", "waiting_values"))
        if entries is None:
            continue
        batch, _, width = entries.shape
        if state.counts is None:
            state.counts = torch.full((batch,), length, device=entries.device)
        sizes = {"entries": room // state.rate, "waiting_values": state.rate - 1, "waiting_gates": state.rate - 1}
        for field, size in sizes.items():
            kept = getattr(state, f"{series}_{field}")
            missing = kept.new_zeros(batch, size - kept.shape[1], kept.shape[2])
            setattr(state, f"{series}_{field}", torch.cat([kept, missing], dim=1))
        if waiting.shape[2] > width and getattr(state, f"{series}_before_values") is None:  # groups that overlap
            before = entries.new_zeros(batch, state.rate, width)
            setattr(state, f"{series}_before_values", before)
            setattr(state, f"{series}_before_gates", torch.full_like(before, float("-inf")))


class FixedCache(Cache):
    """The states in steps: a call writes where `place` says, and moves it; `settle` puts the rest back."""

    length = 0

    def __init__(self, states: Mapping[str, State], *, signature: str, length: int, device: torch.device) -> None:
        self.room = ROOM
        while self.room <= length:
            self.room *= 2
        self.signature = signature
        self.place = torch.tensor(length, device=device)
        size = {"room": self.room, "length": length}
        self.states = {key: fixed(state, self.place, **size) for key, state in states.items()}
        self.homes = {
            key: {name: tensor for name, tensor in state.tensors().items() if name not in state.grows}
            for key, state in self.states.items()
        }

    @property
    def seen(self) -> Count:
        return self.place

    def spanned(self, new: int) -> int:
        return self.room

    def advance(self, new: int) -> None:
        self.place.add_(new)

    def settle(self) -> None:
        """Put what a step replaced where it was before."""
        for key, homes in self.homes.items():
            state = self.states[key]
            for name, home in homes.items():
                home.copy_(getattr(state, name))
                setattr(state, name, home)

    def moving(self) -> list[Tensor]:
        """What a step changes, but for what it writes behind everything that is seen."""
        return [self.place, *(home for homes in self.homes.values() for home in homes.values())]


class StaticCache(Cache):
    """A cache that steps without gradients find in fixed memory, `bound`; to everything else it is like any other.

    Whoever asks for its states gets them as they would be elsewhere, and the next step finds a new place for them.
    """

    bound: FixedCache | None = None
    recorded: Any = None
    """What does a step again that was recorded with `bound`, if anything."""

    @property
    def states(self) -> dict[str, State]:  # type: ignore[override]
        """By place."""
        self.loosen()
        return self.held

    @states.setter
    def states(self, states: dict[str, State]) -> None:
        self.held, self.bound, self.recorded = states, None, None

    def loosen(self) -> None:
        """Give up the fixed memory."""
        if self.bound is not None:
            self.held = {key: loosened(state, self.length) for key, state in self.bound.states.items()}
            self.bound = self.recorded = None

    @property
    def rows(self) -> int | None:
        return super().rows if self.bound is None else self.bound.rows

    @property
    def nbytes(self) -> int:
        return super().nbytes if self.bound is None else self.bound.nbytes

    def bind(self, device: torch.device) -> FixedCache:
        """The states where the next step finds them."""
        if self.bound is None or self.length >= self.bound.room:
            states = self.states
            with torch.inference_mode(False):  # else steps outside of inference mode could not write there
                self.bound = FixedCache(states, signature=self.signature, length=self.length, device=device)
        return self.bound
