"""The cache as transformers' `generate` wants to handle it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache as TransformersCache

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import Cache, State

Repeat = Callable[[Cache, int], object]
"""Does a call again, with its first tokens only."""


@dataclass(frozen=True)
class Before:
    """How the states that do not keep all positions were before a call."""

    length: int
    states: dict[str, State]
    repeat: Repeat


class NexusCache(TransformersCache):
    """A model's cache behind the names that generation strategies call; `cache` is the one that layers extend.

    Windows and recurrences do not keep all positions. After `activate_past_recording` a crop puts them back
    nevertheless: from one crop to the next it is kept how they were before every call, and of the call that a crop cuts
    the tokens that stay are computed again.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.records = False
        self.recorded: list[Before] = []

    def begin(self, repeat: Repeat) -> Cache:
        """The cache that a call extends; `repeat` does that call."""
        if self.records and not self.is_croppable:
            unkept = {key: state.fork() for key, state in self.cache.states.items() if not state.keeps_positions}
            self.recorded.append(Before(self.cache.length, unkept, repeat))
        return self.cache

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.cache.length + query_length, 0

    def activate_past_recording(self) -> None:
        self.records = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` positions.

        Raises:
            InputError: a state does not keep what that needs, and no call as far back was recorded.
        """
        length = self.cache.length - abs(int(tokens_to_remove))  # transformers 5.17 gives a tensor
        before = next((each for each in reversed(self.recorded) if each.length <= length), None)
        if length < self.cache.length and before is None:
            self.cache.crop(length)
        elif length < self.cache.length and before is not None:
            self._put_back(before)
            if length > before.length:
                before.repeat(self.cache, length - before.length)
        self.recorded.clear()

    def _put_back(self, before: Before) -> None:
        for key, state in self.cache.states.items():
            if key not in before.states:
                state.crop(before.length, seen=self.cache.length)
        self.cache.states.update(before.states)
        self.cache.length = before.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.cache.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.cache.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.cache.select(torch.arange(self.batch_size).repeat_interleave(repeats))

    def reset(self) -> None:
        """Refuse.

        Raises:
            InputError: a state is begun, not emptied.
        """
        raise InputError("a NexusCache is not reset: begin with another one")

    @property
    def batch_size(self) -> int:
        return self.cache.rows or -1

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_initialized(self) -> bool:
        return self.cache.length > 0

    @property
    def is_croppable(self) -> bool:
        return all(state.keeps_positions for state in self.cache.states.values())
