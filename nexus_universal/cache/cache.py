"""The cache of a model: one state per mixer, keyed by its place in n, and how many positions have been seen."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.states import Count, State


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
    def seen(self) -> Count:
        """How many positions have been seen, as the next call counts on."""
        return self.length

    def spanned(self, new: int) -> int:
        """How many positions a padding mask tells of in a call with so many new ones."""
        return self.length + new

    def advance(self, new: int) -> None:
        """So many more have been seen."""
        self.length += new

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
        forked = type(self)({key: state.fork() for key, state in self.states.items()}, signature=self.signature)
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
        """Write a safetensors file: it is written beside and renamed, so a reader never meets half of it.

        Raises:
            InputError: the disk refuses; what was there before stays.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {
            f"{key}.{name}": tensor.contiguous()
            for key, state in self.states.items()
            for name, tensor in state.tensors().items()
        }
        said = {"signature": self.signature, "length": json.dumps(self.length)}
        target = Path(path)
        beside = target.with_name(target.name + ".part")
        try:
            save_file(tensors, beside, metadata={**said, "checksum": _checksum(said, tensors)})
            beside.replace(target)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{target}: could not be written ({getattr(error, 'strerror', None) or error})") from None
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], empty: Callable[[], Cache]) -> Cache:
        """Read what `save` wrote into the cache that `empty` makes: `Cache.load(path, model.new_cache)`.

        What an exact cache saved may be read into one of another kind, and is rounded when that goes on.

        Raises:
            InputError: no whole cache file, or one saved by a model with another n or by another kind of cache.
        """
        from safetensors import SafetensorError, safe_open

        cache = empty()
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not readable as a saved cache ({error})") from None
        said = {name: metadata.get(name, "") for name in ("signature", "length")}
        if metadata.get("checksum") != _checksum(said, tensors):
            raise InputError(f"{path}: not readable as a saved cache (damaged: its checksum is that of other content)")
        if said["signature"] != cache.signature:
            found = said["signature"]
            raise InputError(f"{path}: a cache of the n #{found}, this model's n is #{cache.signature}")
        for name, tensor in tensors.items():
            key, field = name.rsplit(".", 1)
            if field not in cache[key].fields:
                raise InputError(f"{path}: saved by another kind of cache: this one's {key} holds no {field}")
            setattr(cache[key], field, tensor)
        cache.length = json.loads(said["length"])
        return cache


def _checksum(said: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of everything that a file says: a byte changed anywhere is found."""
    crc = zlib.crc32(json.dumps(said, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
