"""The cache as transformers' `generate` wants to handle it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import Cache as TransformersCache

from nexus_universal.cache import Cache

Repeat = Callable[[Cache, int], object]
"""Does the last call again, on another cache and with its first tokens only."""


class NexusCache(TransformersCache):
    """A model's cache behind the names that generation strategies call; `cache` is the one that layers extend.

    Windows and recurrences do not keep all positions. After `activate_past_recording` a crop into the last call puts
    them back nevertheless: the cache from before is kept, and the call repeated with the tokens that stay.
    """

    def __init__(self, cache: Cache) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.records = False
        self.last: tuple[Cache, Repeat] | None = None

    def begin(self, repeat: Repeat) -> Cache:
        """The cache that a call extends; `repeat` does that call."""
        self.last = (self.cache.fork(), repeat) if self.records and not self.is_croppable else None
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
            InputError: a state does not keep what that needs, and the last call was not recorded or is too short.
        """
        length = self.cache.length - abs(tokens_to_remove)
        if self.last is None or length < self.last[0].length:
            self.cache.crop(length)
        elif length < self.cache.length:
            self.cache, repeat = self.last
            if length > self.cache.length:
                repeat(self.cache, length - self.cache.length)
        self.last = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.cache.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        self.cache.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.cache.select(torch.arange(self.batch_size).repeat_interleave(repeats))

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
