"""Checkpoints larger than memory: rows read from one, and written into another whose header was settled first."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.files import DTYPES, INDEX, SINGLE
from nexus_universal.checkpoint.load import assemble, slots
from nexus_universal.checkpoint.opened import OpenedCheckpoint
from nexus_universal.checkpoint.rules import (
    Direct,
    Folded,
    Interleaved,
    Joined,
    Numbered,
    Rule,
    Stacked,
    Transposed,
    WeightMap,
    names_of,
)

SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Layout:
    """One tensor of a model as a file holds it: the rule, the file's names, and the rows of each where they differ."""

    rule: Rule
    names: list[str]
    rows: tuple[int, ...] = ()


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory beside `target` that is renamed to it when the block ends well, and removed when it does not.

    Raises:
        CheckpointError: the target exists and is not empty, or the disk refuses.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: exists and is not empty; choose a new directory")
    from safetensors import SafetensorError

    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        beside.chmod(0o755)
        yield beside
        if target.exists():
            target.rmdir()
        beside.rename(target)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{target}: could not be written ({reason})") from None
    finally:
        if beside is not None and beside.exists():
            shutil.rmtree(beside, ignore_errors=True)


def row_count(slot: Tensor) -> int:
    """How many rows a tensor has: all matrices of a stack one below the other; a single number is one."""
    return math.prod(slot.shape[:-1]) if slot.dim() > 1 else slot.numel()


def read_rows(opened: OpenedCheckpoint[Any], name: str, start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of one tensor in the file's dtype, those of a stack of matrices one below the other.

    No more is put together than those: a view of the mapped file where the layout allows it. Quantised tensors are
    dequantised whole.
    """
    rule, parts = opened.plan.sources[name]
    slot, store = opened.slots[name], opened.store
    if isinstance(rule, Stacked | Joined | Numbered):
        heights = [store.infos[part].shape[0] for part in parts]
        axis = getattr(rule, "axis", None)
        pieces = [store.read(part)[rows] for part, rows, _ in _overlaps(parts, heights, start, stop)]
        return _one_below_the_other(pieces if axis is None else [piece.squeeze(axis) for piece in pieces])
    if isinstance(rule, Interleaved):
        whole, order = store.read(parts[0]), _roles_apart(slot.shape[1])
        return _one_below_the_other([whole[e, order[rows]] for e, rows, _ in _matrices(slot, start, stop)])
    dtype = store.infos[parts[0]].dtype
    whole = assemble(slot, rule, parts, read=store.read, read_into=store.read_into, dtype=dtype)
    if whole.dim() > 2:
        stack = whole.flatten(0, -3)
        return _one_below_the_other([stack[e, rows] for e, rows, _ in _matrices(slot, start, stop)])
    return whole[start:stop] if whole.dim() else whole.view(1)


def _one_below_the_other(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


Part = TypeVar("Part")


def _overlaps(
    parts: Sequence[Part], heights: Sequence[int], start: int, stop: int
) -> Iterator[tuple[Part, slice, slice]]:
    """What of each of parts that lie one below the other is among rows `start` to `stop`: its own rows, and those."""
    above = 0
    for part, height in zip(parts, heights, strict=True):
        first, last = max(start - above, 0), min(stop - above, height)
        if first < last:
            yield part, slice(first, last), slice(above + first - start, above + last - start)
        above += height


def _matrices(slot: Tensor, start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
    count, height = math.prod(slot.shape[:-2]), slot.shape[-2]
    return _overlaps(range(count), [height] * count, start, stop)


def _roles_apart(rows: int) -> Tensor:
    """Where the rows of two roles that alternate are, one role's before the other's."""
    return torch.arange(rows).view(-1, 2).T.flatten()


class TensorFiles:
    """Safetensors files that lie full of zeros on the disk, to be filled in any order, a few rows at a time.

    `shapes` gives every tensor's shape and dtype. Sharded above `shard_bytes`, with the index that goes with it.

    Example:
        >>> files = TensorFiles(directory, {"a": ((4, 8), torch.float32)}, metadata={"format": "pt"})
        >>> files["a"][2:] = torch.ones(2, 8)

    Raises:
        CheckpointError: no file holds this dtype.
        OSError: the disk has no room for all of it.
    """

    def __init__(
        self,
        directory: Path,
        shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        *,
        metadata: Mapping[str, str],
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._tensors: dict[str, Tensor] = {}
        sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in shapes.items()}
        shards: list[list[str]] = [[]]
        filled = 0
        for name, size in sizes.items():
            if shards[-1] and filled + size > shard_bytes:
                shards.append([])
                filled = 0
            shards[-1].append(name)
            filled += size
        single = len(shards) == 1
        weight_map: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file_name = SINGLE if single else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self._create(directory / file_name, {name: shapes[name] for name in names}, metadata)
            weight_map |= dict.fromkeys(names, file_name)
        if not single:
            index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
            (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def __getitem__(self, name: str) -> Tensor:
        """The tensor in the file: what is written into it is written there."""
        return self._tensors[name]

    def _create(
        self, path: Path, shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]], metadata: Mapping[str, str]
    ) -> None:
        words = {dtype: word for word, dtype in DTYPES.items()}
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        places: dict[str, int] = {}
        end = 0
        # Widest numbers first: then each tensor lies where its dtype may be read.
        for name, (shape, dtype) in sorted(shapes.items(), key=lambda item: -item[1][1].itemsize):
            if dtype not in words:
                raise CheckpointError(f"{name}: safetensors files hold no {dtype}")
            places[name], start = end, end
            end += math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": words[dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        first = 8 + len(text)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.flush()
            _reserve(file.fileno(), first + end)
        whole = torch.from_file(str(path), shared=True, size=first + end, dtype=torch.uint8)
        for name, (shape, dtype) in shapes.items():
            at, size = first + places[name], math.prod(shape) * dtype.itemsize
            self._tensors[name] = whole[at : at + size].view(dtype).view(shape)


def _reserve(descriptor: int, size: int) -> None:
    """Take the room now: a mapped file that outgrows its disk ends the process instead of raising an error."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def canonical_layouts(model: nn.Module, weights: WeightMap) -> dict[str, Layout]:
    """Every tensor as the nexus format names it, lying as the family's files have it: bits depend on that."""
    lie_transposed = {name for name in slots(model) if _transposed(name, weights)}
    rules: dict[bool, type[Direct | Transposed]] = {True: Transposed, False: Direct}
    return {name: Layout(rules[name in lie_transposed](name), [name]) for name in slots(model)}


def _transposed(name: str, weights: WeightMap) -> bool:
    try:
        rule = weights.rules(name)[0][0]
    except KeyError:
        return False
    return isinstance(rule, Transposed) or (isinstance(rule, Folded) and rule.transposed)


def published_layouts(model: nn.Module, weights: WeightMap) -> dict[str, Layout]:
    """Every tensor as the family publishes it."""
    held = slots(model)
    layouts: dict[str, Layout] = {}
    for name, slot in held.items():
        rules, indices = weights.rules(name, tied="head.weight" not in held)
        names = names_of(rules[0], indices=indices, experts=slot.shape[0] if slot.dim() else 1)
        layouts[name] = Layout(rules[0], names, getattr(model.get_submodule(name.rpartition(".")[0]), "parts", ()))
    return layouts


def write_rows(files: TensorFiles, layout: Layout, rows: Tensor, *, start: int, slot: Tensor) -> None:
    """Put rows of a tensor, counted as `read_rows` does, where files of this layout have them.

    `slot` says the tensor's shape.
    """
    rule, names, stop = layout.rule, layout.names, start + rows.shape[0]
    if isinstance(rule, Stacked | Joined):
        heights = layout.rows or [files[name].shape[0] for name in names]
        for name, own, given in _overlaps(names, heights, start, stop):
            kept = files[name][own]
            kept.copy_(rows[given].view_as(kept))
    elif isinstance(rule, Interleaved):
        order = _roles_apart(slot.shape[1])
        for expert, own, given in _matrices(slot, start, stop):
            files[names[0]][expert].index_copy_(0, order[own], rows[given])
    elif slot.dim() == 0:
        files[names[0]].copy_(rows.view(()))
    else:
        dtype = files[names[0]].dtype
        view = assemble(slot, rule, names, read=files.__getitem__, read_into=_not_needed, dtype=dtype)
        if view.dim() < 3:
            view[start:stop].copy_(rows)
            return
        stack = view.flatten(0, -3)
        for matrix, own, given in _matrices(slot, start, stop):
            stack[matrix, own].copy_(rows[given])


def _not_needed(name: str, target: Tensor) -> None:
    raise AssertionError(f"{name} is written through a view")
