"""The cache of a model: one state per mixer, keyed by its place in n, and how many positions have been seen."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.states import State


class Cache:
    """Made by `model.new_cache()`; a call with it extends it in place.

    Example:
        >>> cache = model.new_cache()
        >>> model(prompt, cache=cache)
        >>> branch = cache.fork()                  # two continuations of one prompt
        >>> model(next_id, cache=branch)
    """

    def __init__(self, states: Mapping[str, State], *, signature: str) -> None:
        self.states = dict(states)
        self.signature = signature
        self.length = 0

    def __getitem__(self, key: str) -> State:
        if key not in self.states:
            raise InputError(f"this cache has no state for {key}: it was made by a model of another n")
        return self.states[key]

    def __repr__(self) -> str:
        return f"Cache(length={self.length}, states={len(self.states)}, bytes={self.nbytes})"

    @property
    def nbytes(self) -> int:
        """Bytes held by all states."""
        return sum(t.numel() * t.element_size() for state in self.states.values() for t in state.tensors().values())

    @property
    def rows(self) -> int | None:
        """How many batch rows are held; None before the first call."""
        for state in self.states.values():
            for tensor in state.tensors().values():
                return tensor.shape[0]
        return None

    @classmethod
    def joined(cls, parts: Mapping[str, Cache], *, signature: str) -> Cache:
        """One cache of several, for models that read the same positions; `part` gives each its own."""
        states = {f"{name}.{key}": state for name, each in parts.items() for key, state in each.states.items()}
        return cls(states, signature=signature)

    def part(self, name: str) -> Cache:
        """The states of one of those that were joined, shared with this cache: a call moves them here, too."""
        prefix = f"{name}."
        states = {key.removeprefix(prefix): state for key, state in self.states.items() if key.startswith(prefix)}
        shared = Cache(states, signature=self.signature)
        shared.length = self.length
        return shared

    def fork(self) -> Cache:
        """An independent copy that shares memory until one of the two moves on."""
        forked = Cache({key: state.fork() for key, state in self.states.items()}, signature=self.signature)
        forked.length = self.length
        return forked

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep, repeat or permute batch rows (beam search, a change of batch order)."""
        for state in self.states.values():
            state.select(rows)

    def to(self, device: torch.device | str) -> Cache:
        """Move all states; returns self."""
        for state in self.states.values():
            state.to(device)
        return self

    def crop(self, length: int) -> None:
        """Forget all positions from `length` on.

        Raises:
            InputError: a state does not keep all positions; nothing is changed then.
        """
        if not 0 <= length <= self.length:
            raise InputError(f"crop to {length}: must lie in [0, {self.length}]")
        trial = self.fork()
        for state in trial.states.values():
            state.crop(length, seen=self.length)
        self.states, self.length = trial.states, length

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file: it is written beside and renamed, so a reader never meets half of it."""
        from safetensors.torch import save_file

        tensors = {
            f"{key}.{name}": tensor.contiguous()
            for key, state in self.states.items()
            for name, tensor in state.tensors().items()
        }
        target = Path(path)
        beside = target.with_name(target.name + ".part")
        try:
            save_file(tensors, beside, metadata={"signature": self.signature, "length": json.dumps(self.length)})
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], empty: Callable[[], Cache]) -> Cache:
        """Read what `save` wrote into the cache that `empty` makes: `Cache.load(path, model.new_cache)`.

        Raises:
            InputError: no whole cache file, or one saved by a model with another n.
        """
        from safetensors import SafetensorError, safe_open

        cache = empty()
        try:
            opened = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not readable as a saved cache ({error})") from None
        with opened as file:
            metadata = file.metadata() or {}
            if metadata.get("signature") != cache.signature:
                found = metadata.get("signature")
                raise InputError(f"{path}: a cache of the n #{found}, this model's n is #{cache.signature}")
            for name in file.keys():  # noqa: SIM118
                key, field = name.rsplit(".", 1)
                setattr(cache.states[key], field, file.get_tensor(name))
            cache.length = json.loads(metadata["length"])
        return cache
