"""The tensor files of a checkpoint: headers are read and checked first, tensors are memory-mapped."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.architecture.source import load_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


WORKING_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def dtype_named(name: str) -> torch.dtype:
    """The dtype that models run in under this name.

    Raises:
        CheckpointError: no model runs in it.
    """
    if name not in WORKING_DTYPES:
        raise CheckpointError(f"dtype {name!r} is not known (known: auto, {', '.join(WORKING_DTYPES)})")
    return WORKING_DTYPES[name]


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor; `start` is its first byte in the file, -1 in a pickled file."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    nbytes: int


def read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, from its header alone.

    Raises:
        CheckpointError: not a safetensors file, or shorter than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise CheckpointError(f"{path}: not a safetensors file, or truncated within its header ({size} bytes)")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            metadata = header.pop("__metadata__", {})
            infos = {
                name: TensorInfo(
                    file=path,
                    shape=tuple(entry["shape"]),
                    dtype=DTYPES[entry["dtype"]],
                    start=8 + length + entry["data_offsets"][0],
                    nbytes=entry["data_offsets"][1] - entry["data_offsets"][0],
                )
                for name, entry in header.items()
            }
            needed = _end_of_tensors(infos, 8 + length)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}: its safetensors header is damaged ({error!r})") from None
    if size != needed:
        state = "truncated" if size < needed else "damaged"
        raise CheckpointError(f"{path}: {state}: holds {size} bytes, and its header speaks of {needed}")
    return infos, dict(metadata)


def _end_of_tensors(infos: dict[str, TensorInfo], at: int) -> int:
    """Where the last tensor ends; they must follow each other without gaps, each as long as its shape says.

    Raises:
        ValueError: naming the first that does not.
    """
    for name, info in sorted(infos.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if (
            info.start != at
            or info.nbytes != math.prod(info.shape) * info.dtype.itemsize
            or min(info.shape, default=0) < 0
        ):
            raise ValueError(f"{name}: {info.nbytes} bytes at {info.start} for shape {info.shape}")
        at += info.nbytes
    return at


@dataclass
class TensorStore:
    """All tensors of a checkpoint by name. Nothing is read before it is asked for.

    `passed_over` are tensors of the files that are not among them, with the reason.
    """

    infos: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)
    passed_over: dict[str, str] = field(default_factory=dict)
    _open: dict[Path, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, directory: str | PathLike[str]) -> TensorStore:
        """Find the files of a local checkpoint: one file or shards, safetensors before pickles.

        Raises:
            CheckpointError: no weights, a missing or truncated shard, or a shard that lacks what the index promises.
        """
        root = Path(directory)
        if (root / SINGLE).is_file():
            infos, metadata = read_header(root / SINGLE)
            return cls(infos, metadata)
        if (root / INDEX).is_file():
            return cls(*_shards(root, INDEX, read_header))
        if (root / PICKLED).is_file():
            return cls(_pickled(root / PICKLED))
        if (root / PICKLED_INDEX).is_file():
            return cls(*_shards(root, PICKLED_INDEX, lambda path: (_pickled(path), {})))
        raise CheckpointError(f"{root}: holds no weights ({SINGLE}, {INDEX}, {PICKLED} or {PICKLED_INDEX})")

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos.values())

    def working_dtype(self, asked: str | torch.dtype, *, said: str | None = None) -> torch.dtype:
        """The dtype to load in: what is asked for, or "auto": what the config said, or the first tensor's in one.

        Raises:
            CheckpointError: a name of no such dtype.
        """
        if isinstance(asked, torch.dtype):
            return asked
        name = said if asked == "auto" else asked
        if name is None:
            in_order = sorted(self.infos.items(), key=lambda item: (item[1].file, item[0]))
            return next((info.dtype for _, info in in_order if info.dtype in WORKING_DTYPES.values()), torch.float32)
        return dtype_named(name)

    def read(self, name: str) -> Tensor:
        """The tensor, memory-mapped: nothing is copied until it is touched."""
        info = self.infos[name]
        if info.start < 0:
            return self._pickle(info.file)[name]
        if info.file not in self._open:
            from safetensors import SafetensorError, safe_open

            try:
                self._open[info.file] = safe_open(info.file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{info.file}: not readable ({error})") from None
        return self._open[info.file].get_tensor(name)

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a contiguous slice from the file; bytes go straight there where the dtype is the file's."""
        info = self.infos[name]
        if info.start < 0 or info.dtype != target.dtype or target.device.type != "cpu":
            target.copy_(self.read(name))
            return
        with info.file.open("rb", buffering=0) as file:
            file.seek(info.start)
            view = target.view(-1).view(torch.uint8).numpy().data
            done = 0
            while done < info.nbytes:
                got = file.readinto(view[done:])
                if not got:
                    raise CheckpointError(f"{info.file}: ended within {name}")
                done += got

    def _pickle(self, path: Path) -> dict[str, Tensor]:
        if path not in self._open:
            self._open[path] = _load_pickle(path)
        return self._open[path]


def _shards(
    root: Path, index_name: str, header: Callable[[Path], tuple[dict[str, TensorInfo], dict[str, str]]]
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    weight_map = load_json(root / index_name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{root / index_name}: has no weight_map")
    infos: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for file_name in dict.fromkeys(weight_map.values()):
        path = root / str(file_name)
        if path.parent.resolve() != root.resolve() or not path.is_file():
            raise CheckpointError(f"{path}: this shard is missing; {index_name} names it")
        of_shard, said = header(path)
        infos |= of_shard
        metadata |= said
    for name, file_name in weight_map.items():
        if name not in infos:
            raise CheckpointError(f"{root / str(file_name)}: lacks {name}, which {index_name} promises")
    return infos, metadata


def _load_pickle(path: Path) -> dict[str, Tensor]:
    """A pickled state dict, weights only: code in it is refused, never run."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format before torch 1.6 cannot be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: not a state dict of plain tensors ({reason})") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: not a state dict of plain tensors, but a {type(loaded).__name__}")
    return {name: value for name, value in loaded.items() if isinstance(value, Tensor)}


def _pickled(path: Path) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(file=path, shape=tuple(t.shape), dtype=t.dtype, start=-1, nbytes=t.numel() * t.element_size())
        for name, t in _load_pickle(path).items()
    }


def find_checkpoint(source: str | PathLike[str], **hub: Any) -> Path:
    """The local directory of a checkpoint: `source` itself, or the hub's cached copy of a repo.

    Raises:
        CheckpointError: neither a directory nor a repo that can be reached.
    """
    path = Path(source)
    if path.is_dir():
        return path
    text = str(source)
    if path.is_file():
        raise CheckpointError(
            f"{path}: is a file; a checkpoint is the directory that holds config.json and the weights"
        )
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise CheckpointError(f"{text}: no such directory (and not a repo id of the form owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(text, allow_patterns=list(_wanted()), **hub))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{text}: no such directory, and the hub gave no checkpoint ({reason})") from None


def _wanted() -> Iterator[str]:
    yield from ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja")
