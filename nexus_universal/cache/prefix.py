"""Prompts that begin alike are read once: what was read is kept, and a new prompt begins with the longest of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.cache import Cache


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    ids: Int[Tensor, " length"]
    cache: Cache


class PrefixStore:
    """Caches of texts, at most `max_bytes` together; what was not used for longest goes first.

    A prompt that begins as a kept text does continues from there: with the very bits of the call that read it, and so
    with those of reading the same pieces one after the other. Against reading the prompt in one piece logits stay
    within the floor (the law "chunks = full" of `nexus verify`). Two sorts of models are not asked to: those whose
    rotation depends on the whole call's length (dynamic NTK, LongRoPE) once a text crosses its switch, and rounded
    caches, where what was kept is rounded earlier. Windows and recurrences, which cannot be cropped, continue only from
    the end of a kept text; keep the part that prompts share.

    Example:
        >>> store = PrefixStore(model.new_cache, max_bytes=2**30)
        >>> cache = store.begin(ids)
        >>> text = model.generate(ids, cache=cache)
        >>> store.keep(text, cache)
    """

    def __init__(self, empty: Callable[[], Cache], *, max_bytes: int) -> None:
        self.empty, self.max_bytes = empty, max_bytes
        self._entries: list[_Entry] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all kept caches; what forks share counts for each."""
        return sum(entry.cache.nbytes for entry in self._entries)

    def begin(self, ids: Int[Tensor, "one length"]) -> Cache:
        """A cache that has read as much of the beginning of `ids` as is known, but for its last token.

        Raises:
            InputError: more than one row.
        """
        row = _row(ids)
        ranked = sorted(((_shared(entry.ids, row[:-1]), entry) for entry in self._entries), key=lambda pair: -pair[0])
        for length, entry in ranked:
            cache = entry.cache.fork()
            try:
                cache.crop(length)
            except InputError:
                continue
            if length:
                self._entries.remove(entry)
                self._entries.append(entry)
                return cache
        return self.empty()

    def keep(self, ids: Int[Tensor, "one length"], cache: Cache) -> None:
        """Remember what `cache` has read, which is the beginning of `ids`; the cache may go on.

        A text that is larger than `max_bytes` by itself is not kept.

        Raises:
            InputError: more than one row, or a cache that has read more than `ids`.
        """
        row = _row(ids)
        if cache.length > len(row):
            raise InputError(f"the cache has read {cache.length} positions: ids must be as many, not {len(row)}")
        if cache.nbytes > self.max_bytes:
            return
        row = row[: cache.length].clone()
        self._entries = [entry for entry in self._entries if not torch.equal(entry.ids, row)]
        self._entries.append(_Entry(row, cache.fork()))
        while self.nbytes > self.max_bytes:
            del self._entries[0]


def _row(ids: Int[Tensor, "one length"]) -> Int[Tensor, " length"]:
    if ids.dim() != 2 or ids.shape[0] != 1:
        raise InputError(f"ids have shape {tuple(ids.shape)}: a prefix is one row, [1, length]")
    return ids[0].cpu()


def _shared(kept: Int[Tensor, " kept"], asked: Int[Tensor, " asked"]) -> int:
    """How many first ids are the same."""
    most = min(len(kept), len(asked))
    differing = (kept[:most] != asked[:most]).nonzero()
    return int(differing[0]) if len(differing) else most
