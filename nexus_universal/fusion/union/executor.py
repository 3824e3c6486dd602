"""Many models within a budget of bytes: loaded when asked for, evicted when others need the room, streamed by layer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import put
from nexus_universal.checkpoint.opened import OpenedCheckpoint
from nexus_universal.checkpoint.rules import Interleaved, Rule, Stacked
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.branch import open_branch
from nexus_universal.fusion.union.pool import Key, TensorPool
from nexus_universal.transformer import UniversalTransformer

LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass
class Resident:
    """A branch that the executor knows: its tensors by key, and how it stands in memory."""

    name: str
    opened: OpenedCheckpoint[UniversalTransformer]
    keys: dict[str, Key]
    sizes: dict[Key, int]
    scratches: dict[str, int]
    read_bytes: int
    loaded: bool = False
    reserved: int = 0
    used: int = 0
    hooks: list[Any] = field(default_factory=list)

    @cached_property
    def units(self) -> dict[int | None, list[str]]:
        """Names of tensors by layer; None are the ends, and whatever several layers share."""
        found: dict[int | None, list[str]] = {None: []}
        for name in self.keys:
            layer = LAYER.match(name)
            found.setdefault(int(layer[1]) if layer else None, []).append(name)
        return found

    def nbytes(self, names: Iterable[str] | None = None) -> int:
        """Bytes of these tensors, or of all, each counted once."""
        return sum(self.sizes[key] for key in {self.keys[name] for name in (self.keys if names is None else names)})

    @property
    def scratch(self) -> int:
        """The most that any tensor takes on top of itself while it is put together."""
        return max(self.scratches.values(), default=0)

    @property
    def least(self) -> int:
        """Bytes without which it cannot run: its ends, its largest layer, and what that takes to put together."""
        layers = (self.nbytes(names) for layer, names in self.units.items() if layer is not None)
        return self.nbytes(self.units[None]) + max(layers, default=0) + self.scratch


class ModelExecutor:
    """Runs the branches of a union within `budget_bytes` of weights, scratch space for putting them together included.

    A branch that fits is loaded whole; others are evicted for it, those first that were not used for long and free many
    bytes for few that must be read again (size-adjusted LRU, Aggarwal, Wolf & Yu 1999). Tensors that branches share are
    held and counted once.
    A branch that does not fit alone keeps its ends and its first layers, and reads the others in every call. Logits
    are the same bits in any case. Caches and activations come on top, as does a window of 4 MiB for decoding.

    Example:
        >>> executor = ModelExecutor(Archive("both.nxu"), budget_bytes=2_000_000_000)
        >>> executor.execute("code", {"input_ids": ids}).logits.shape
        torch.Size([1, 9, 151936])
    """

    def __init__(
        self,
        archive: Archive,
        budget_bytes: int,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        self.archive, self.budget_bytes = archive, budget_bytes
        self.dtype, self.device = dtype, torch.device(device)
        self.pool = TensorPool()
        self._known: dict[str, Resident] = {}
        self._calls = 0

    def load(self, name: str) -> UniversalTransformer:
        """A branch, ready to run; it stays so until another needs its room.

        Raises:
            InputError: there is none of this name, or the budget is smaller than the least that would do.
        """
        branch = self._opened(name)
        if not branch.loaded:
            if branch.least > self.budget_bytes:
                raise InputError(
                    f"{name}: a budget of {self.budget_bytes:,} bytes is too small: at least {branch.least:,} are"
                    " needed, for the ends of the model and its largest layer"
                )
            whole = branch.nbytes() + branch.scratch
            self._make_room(branch, min(whole, self.budget_bytes))
            branch.loaded = True
            try:
                self._fill(branch) if whole <= self.budget_bytes else self._stream(branch)
            except BaseException:
                self.unload(name)
                raise
        self._calls += 1
        branch.used = self._calls
        return branch.opened.model

    def unload(self, name: str) -> None:
        """Free what only this branch uses; without effect where it is not loaded."""
        branch = self._opened(name)
        for hook in branch.hooks:
            hook.remove()
        branch.hooks.clear()
        self._drop(branch, branch.keys)
        branch.loaded, branch.reserved = False, 0

    def execute(self, name: str, inputs: Mapping[str, Any]) -> Any:
        """One call of a branch, without gradients: `inputs` are those of `UniversalTransformer.forward`."""
        with torch.no_grad():
            return self.load(name)(**inputs)

    @property
    def loaded(self) -> list[str]:
        """The branches in memory, those first that would be evicted first."""
        held = [each for each in self._known.values() if each.loaded]
        return [each.name for each in sorted(held, key=self._urgency, reverse=True)]

    @property
    def peak_bytes(self) -> int:
        """The most bytes of weights, scratch included, that were held at a time."""
        return self.pool.peak

    def forget_peak(self) -> None:
        """Measure the peak anew, from what is held now."""
        self.pool.peak = self.pool.nbytes

    def get_vram_usage(self) -> int:
        """Bytes of weights that are held now."""
        return self.pool.nbytes

    def nbytes(self, name: str) -> int:
        """Bytes that a branch takes when it is loaded alone and whole."""
        return self._opened(name).nbytes()

    def _opened(self, name: str) -> Resident:
        if name not in self._known:
            self._known[name] = _resident(self.archive, name, self.dtype)
        return self._known[name]

    def _make_room(self, branch: Resident, needed: int) -> None:
        """Evict others until `needed` bytes, less what is there already, are free."""
        while True:
            held = self.pool.tensors.keys() & branch.sizes.keys()
            missing = needed - sum(branch.sizes[key] for key in held)
            reserved = sum(other.reserved for other in self._known.values())
            if self.pool.nbytes + reserved + missing <= self.budget_bytes or not self.loaded:
                return
            self.unload(self.loaded[0])

    def _urgency(self, branch: Resident) -> float:
        """Calls since it was last used, by the bytes that each byte read again would free."""
        return (self._calls + 1 - branch.used) * branch.nbytes() / max(1, branch.read_bytes)

    def _fill(self, branch: Resident) -> None:
        self._acquire(branch, branch.keys)

    def _stream(self, branch: Resident) -> None:
        """Keep the ends and as many of the first layers as leave room for the largest of the others.

        Every call passes all layers in order: to keep the first is the best that can be done, to keep the last used
        the worst.
        """
        ends, layers = branch.units[None], {layer: names for layer, names in branch.units.items() if layer is not None}
        self._acquire(branch, ends)
        kept = list(ends)
        order = sorted(layers)
        while order:
            largest = max((branch.nbytes(layers[layer]) for layer in order[1:]), default=0)
            if branch.nbytes([*kept, *layers[order[0]]]) + largest + branch.scratch > self.budget_bytes:
                break
            kept += layers[order[0]]
            self._acquire(branch, layers[order.pop(0)])
        branch.reserved = max((branch.nbytes(layers[layer]) for layer in order), default=0) + branch.scratch
        for layer in order:
            self._hook(branch, branch.opened.model.layers[layer], layers[layer])

    def _hook(self, branch: Resident, module: nn.Module, names: list[str]) -> None:
        def before(*_: object) -> None:
            self._acquire(branch, names)

        def after(*_: object) -> None:
            self._drop(branch, names)

        branch.hooks += [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, always_call=True),
        ]

    def _acquire(self, branch: Resident, names: Iterable[str]) -> None:
        opened = branch.opened
        for name in names:
            tensor = self.pool.acquire(
                branch.keys[name],
                (branch.name, name),
                lambda name=name: opened.read(name).to(self.device),
                scratch=branch.scratches[name],
            )
            put(opened.model, name, tensor)

    def _drop(self, branch: Resident, names: Iterable[str]) -> None:
        for name in names:
            put(branch.opened.model, name, branch.opened.slots[name])
            self.pool.release(branch.keys[name], (branch.name, name))


def _resident(archive: Archive, name: str, dtype: str | torch.dtype) -> Resident:
    """A branch and what it takes, found without reading a tensor."""
    opened = open_branch(archive, name, dtype=dtype)
    stored, infos = archive.branch(name).tensors, opened.store.infos
    keys: dict[str, Key] = {}
    sizes: dict[Key, int] = {}
    scratches: dict[str, int] = {}
    for slot, (rule, parts) in opened.plan.sources.items():
        shape, found = tuple(opened.slots[slot].shape), infos[parts[0]].dtype
        kept = opened.dtypes[slot] if found.is_floating_point else found
        blobs = (stored[part].blob if part in stored else f"{name}: {part}" for part in parts)
        how = (type(rule).__name__, *(value for field, value in vars(rule).items() if field not in ("name", "names")))
        key = (*how, *blobs, shape, str(kept))
        keys[slot], sizes[key] = key, torch.Size(shape).numel() * kept.itemsize
        scratches[slot] = _scratch(rule, [infos[part].nbytes for part in parts], sizes[key], cast=found != kept)
    read = {tensor.blob for tensor in stored.values()}
    cost = sum(archive.blobs.cost(blob) for blob in read)
    return Resident(name, opened, keys, sizes, scratches, cost)


def _scratch(rule: Rule, parts: list[int], size: int, *, cast: bool) -> int:
    """Bytes besides the tensor itself that live while it is put together from parts of these sizes."""
    if isinstance(rule, Stacked):
        return max(parts) if cast else 0
    if len(parts) == 1 and not cast and parts[0] == size and not isinstance(rule, Interleaved):
        return 0
    return sum(parts) * (2 if cast and len(parts) > 1 else 1)
