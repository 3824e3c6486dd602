"""How a union is written: blobs beside the target as they come, header and blobs in one file at the end, renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.fusion.union.archive import Branch, header_of
from nexus_universal.fusion.union.blobs import Blob, Blobs
from nexus_universal.fusion.union.coding import Coding, encoded


class ArchiveWriter:
    """A union that grows: what was written can be read again, to code other tensors against it."""

    def __init__(self, data: Path) -> None:
        self.blobs = Blobs(data)
        self._end = 0

    def __contains__(self, name: str) -> bool:
        return name in self.blobs.known

    def add(self, name: str, chunks: Iterator[bytes], *, nbytes: int, coding: Coding, base: str | None = None) -> int:
        """Code plain bytes, whose sha256 is `name`, and append them; gives the bytes that they took."""
        pieces = encoded(chunks, coding, base=self.blobs.chunks(base) if base is not None else None)
        crc32, size = 0, 0
        with self.blobs.path.open("ab") as file:
            for piece in pieces:
                file.write(piece)
                crc32, size = zlib.crc32(piece, crc32), size + len(piece)
        self.blobs.known[name] = Blob(nbytes, crc32, base)
        self.blobs.spans[name] = (self._end, size)
        self._end += size
        return size

    def write(self, path: Path, branches: list[Branch]) -> None:
        """Header and blobs as one file."""
        with path.open("wb") as file, self.blobs.path.open("rb") as data:
            file.write(header_of(self.blobs, branches))
            shutil.copyfileobj(data, file, 1 << 20)


@contextmanager
def new_archive(target: Path) -> Iterator[tuple[ArchiveWriter, list[Branch]]]:
    """A writer, and a list for its branches; the file stands, whole, when the block ends well, and else not at all.

    Raises:
        CheckpointError: the file exists already, or the disk refuses.
    """
    if target.exists():
        raise CheckpointError(f"{target}: exists already; choose a new file")
    beside: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        (beside / "blobs").touch()
        writer, branches = ArchiveWriter(beside / "blobs"), []
        yield writer, branches
        writer.write(beside / "whole", branches)
        os.replace(beside / "whole", target)
    except OSError as error:
        raise CheckpointError(f"{target}: could not be written ({error.strerror or error})") from None
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
