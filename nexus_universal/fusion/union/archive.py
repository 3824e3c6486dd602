"""The union's file: safetensors whose tensors are coded blobs, named by the hash of what they hold.

`__metadata__["manifest"]` says the rest: every branch with its n, its tensors and its files (config, tokenizer,
licence), and every blob's plain size, checksum and base. A blob is coded against at most one other, itself without a
base, so that reading one tensor never reads more than two blobs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.fusion import fused
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.files import DTYPES, read_header
from nexus_universal.fusion.retention import Tier
from nexus_universal.fusion.union.blobs import Blob, Blobs

FORMAT = "nexus-union-1"
SUFFIX = ".nxu"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a branch: the blob with its bytes, and the file of the original checkpoint that held it."""

    blob: str
    dtype: str
    shape: tuple[int, ...]
    file: str

    @property
    def nbytes(self) -> int:
        """Its bytes, not coded."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One model of a union. `metadata` is that of its tensor files; `files` are its other files, by blob."""

    name: str
    source: str
    n: Mapping[str, Any]
    capabilities: tuple[str, ...]
    ignore_keys: tuple[str, ...]
    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, str]
    tier: str = str(Tier.WEIGHTS)

    @property
    def parameter(self) -> ArchitectureParameter:
        """Its n."""
        return ArchitectureParameter.from_json(json.dumps(self.n))

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors as its checkpoint held them."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class Archive:
    """A union that is opened: what it holds is known, and nothing is read before it is asked for.

    Example:
        >>> archive = Archive(Path("both.nxu"))
        >>> archive.tensor("code", "model.norm.weight").dtype
        torch.bfloat16

    Raises:
        CheckpointError: no such file, not a union, truncated, or a damaged manifest.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise CheckpointError(f"{self.path}: no such file")
        infos, metadata = read_header(self.path)
        try:
            known, self.branches = _manifest(self.path, metadata)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{self.path}: its manifest is damaged ({error!r})") from None
        spans = {name: (info.start, info.nbytes) for name, info in infos.items() if info.dtype == torch.uint8}
        if set(known) != set(spans) or len(spans) != len(infos):
            raise CheckpointError(f"{self.path}: its manifest and its header speak of different tensors")
        self.blobs = Blobs(self.path, known, spans)

    @property
    def n(self) -> ArchitectureParameter:
        """All branches in one n, each by its name; that of a single branch is its own."""
        alone = [branch.parameter for branch in self.branches.values()]
        return (
            alone[0]
            if len(alone) == 1
            else fused("route", weights=None, **dict(zip(self.branches, alone, strict=True)))
        )

    def branch(self, name: str) -> Branch:
        """One of its models.

        Raises:
            InputError: there is none of this name.
        """
        if name not in self.branches:
            raise InputError(f"branch {name!r} (known: {', '.join(self.branches)})")
        return self.branches[name]

    def tensor(self, branch: str, name: str) -> Tensor:
        """One tensor as its checkpoint held it, in memory of its own; its bytes are checked against their hash."""
        stored = self.branch(branch).tensors[name]
        out = torch.empty(stored.shape, dtype=DTYPES[stored.dtype])
        self.read_into(branch, name, out)
        return out

    def read_into(self, branch: str, name: str, target: Tensor) -> None:
        """Decode one tensor into a contiguous one of its dtype and size.

        Raises:
            CheckpointError: it is damaged.
        """
        view = target.view(-1).view(torch.uint8).numpy()
        at = 0
        for chunk in self.tensor_chunks(branch, name):
            view[at : at + len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)
            at += len(chunk)

    def tensor_chunks(self, branch: str, name: str) -> Iterator[bytes]:
        """One tensor's bytes, piece by piece.

        Raises:
            CheckpointError: it is damaged.
        """
        yield from self._named(branch, name, self.branch(branch).tensors[name].blob)

    def document(self, branch: str, name: str) -> bytes:
        """One of a branch's other files.

        Raises:
            CheckpointError: it is damaged.
        """
        return b"".join(self._named(branch, name, self.branch(branch).files[name]))

    def _named(self, branch: str, name: str, blob: str) -> Iterator[bytes]:
        """A blob's bytes; damage is said of what they belong to."""
        try:
            yield from self.blobs.chunks(blob)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {branch}: {name}: {error}") from None

    def users(self, blob: str) -> Iterator[str]:
        """What holds these bytes, as "branch: tensor"."""
        for branch in self.branches.values():
            yield from (f"{branch.name}: {name}" for name, stored in branch.tensors.items() if stored.blob == blob)
            yield from (f"{branch.name}: {name}" for name, known in branch.files.items() if known == blob)


def is_union(path: str | PathLike[str]) -> bool:
    """Whether a file is, or claims to be, a union: by its suffix or by what its header says."""
    path = Path(path)
    if not path.is_file():
        return False
    if path.suffix == SUFFIX:
        return True
    try:
        return read_header(path)[1].get("format") == FORMAT
    except CheckpointError:
        return False


def header_of(blobs: Blobs, branches: list[Branch]) -> bytes:
    """The first bytes of the file in which the blobs follow each other as they do in `blobs.path`.

    Raises:
        CheckpointError: more than readers of safetensors accept.
    """
    said = {
        "branches": [asdict(branch) for branch in branches],
        "blobs": {k: asdict(b) for k, b in blobs.known.items()},
    }
    manifest = json.dumps(said, separators=(",", ":"))
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "manifest": manifest, "sha256": digest}}
    for name, (start, size) in blobs.spans.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [start, start + size]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > 100_000_000:
        raise CheckpointError(f"the header takes {len(text):,} bytes, and safetensors allows 100,000,000: unite fewer")
    return len(text).to_bytes(8, "little") + text


def _manifest(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Blob], dict[str, Branch]]:
    """All blobs and branches.

    Raises:
        CheckpointError: not a union, not what was written, or blobs that do not fit what is made of them.
    """
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a union (its metadata does not say format = {FORMAT})")
    text = metadata["manifest"]
    if hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() != metadata["sha256"]:
        raise CheckpointError(f"{path}: its manifest is damaged")
    said = json.loads(text)
    known = {name: Blob(**blob) for name, blob in said["blobs"].items()}
    branches = {branch["name"]: _branch(branch) for branch in said["branches"]}
    for name, blob in known.items():
        if blob.base is not None and known[blob.base].base is not None:
            raise CheckpointError(f"{path}: its manifest is damaged ({name} is coded against a difference)")
    for branch in branches.values():
        for name, tensor in branch.tensors.items():
            if known[tensor.blob].nbytes != tensor.nbytes:
                raise CheckpointError(f"{path}: its manifest is damaged ({branch.name}: {name} has another size)")
    return known, branches


def _branch(said: Mapping[str, Any]) -> Branch:
    tensors = {
        name: StoredTensor(**{**stored, "shape": tuple(stored["shape"])}) for name, stored in said["tensors"].items()
    }
    several = {key: tuple(said[key]) for key in ("capabilities", "ignore_keys")}
    return Branch(**{**said, **several, "tensors": tensors})
