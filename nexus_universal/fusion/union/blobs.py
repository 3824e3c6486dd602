"""Coded bytes in a file, found by the hash of what they hold."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.fusion.union.coding import decoded


@dataclass(frozen=True)
class Blob:
    """Bytes that are kept once: their plain size, a checksum of their coded form, and what they are coded against."""

    nbytes: int
    crc32: int
    base: str | None = None


@dataclass
class Blobs:
    """Coded blobs in one file, by the sha256 of their plain bytes; `spans` are their first bytes and lengths there."""

    path: Path
    known: dict[str, Blob] = field(default_factory=dict)
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)

    def chunks(self, name: str) -> Iterator[bytes]:
        """The plain bytes of one, piece by piece.

        Raises:
            CheckpointError: they are not those that were hashed; raised with the last piece at the latest.
        """
        hashed = hashlib.sha256()
        for chunk in self._decoded(name):
            hashed.update(chunk)
            yield chunk
        if hashed.hexdigest() != name:
            raise CheckpointError("its bytes are not those that were packed")

    def _decoded(self, name: str) -> Iterator[bytes]:
        blob, (start, size) = self.known[name], self.spans[name]
        with self.path.open("rb") as file:
            file.seek(start)
            limited = _Limited(file, size)
            base = self._decoded(blob.base) if blob.base is not None else None
            yield from decoded(limited.read, blob.nbytes, base=base)

    def crc32(self, name: str) -> int:
        """The checksum of the coded bytes as they lie in the file."""
        start, left = self.spans[name]
        found = 0
        with self.path.open("rb") as file:
            file.seek(start)
            while piece := file.read(min(left, 1 << 20)):
                found, left = zlib.crc32(piece, found), left - len(piece)
        return found

    def cost(self, name: str) -> int:
        """Bytes of the file that are read for it, those of its base included."""
        base = self.known[name].base
        return self.spans[name][1] + (self.spans[base][1] if base is not None else 0)


class _Limited:
    """A file from which no more than `left` bytes are read."""

    def __init__(self, file: BinaryIO, left: int) -> None:
        self.file, self.left = file, left

    def read(self, count: int) -> bytes:
        found = self.file.read(min(count, self.left))
        self.left -= len(found)
        return found
