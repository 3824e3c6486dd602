"""Lossless coding of numbers: by planes of bytes, each compressed where that helps, as they are or against a base.

Trained weights are noise in the mantissa and nearly constant in the exponent (DFloat11, arXiv 2504.11651; ZipNN,
2411.05239). Floats are turned left by one bit, so that all of the exponent lies in one plane and the sign goes to the
noise. Fine-tuned tensors are coded as XOR with their base, whose high planes are then nearly zero.

What is coded describes itself: b"N", bytes per number, flags (1 turned, 2 against a base), 0; then for every chunk of
at most `CHUNK` plain bytes their count, and for every plane its length (top bit: not compressed) and its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nexus_universal.architecture.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import zstandard

CHUNK = 1 << 20
"""Plain bytes that are coded at a time, a multiple of every number's size: memory does not grow with the tensor."""

MAGIC = ord("N")
TURNED, AGAINST_BASE = 1, 2
STORED = 1 << 31
TEXT_LEVEL = 9
Read = Callable[[int], bytes]


@dataclass(frozen=True)
class Coding:
    """What is known of bytes before they are coded: how many make a number, and whether they are a text."""

    itemsize: int
    turned: bool = False
    text: bool = False

    @classmethod
    def of(cls, dtype: torch.dtype) -> Coding:
        """Numbers whose exponent crosses a byte are turned."""
        return cls(dtype.itemsize, turned=dtype.is_floating_point and dtype.itemsize > 1)


TEXT = Coding(1, text=True)


def encoded(chunks: Iterable[bytes], coding: Coding, *, base: Iterable[bytes] | None = None) -> Iterator[bytes]:
    """The coded form of plain chunks, piece by piece; `base` gives chunks of the same sizes."""
    compress = (_text_compressor() if coding.text else _plane_compressor()).compress
    yield bytes((MAGIC, coding.itemsize, TURNED * coding.turned | AGAINST_BASE * (base is not None), 0))
    bases = iter(base) if base is not None else None
    for chunk in chunks:
        yield struct.pack("<I", len(chunk))
        numbers = numbers_of(chunk, coding.itemsize)
        if bases is not None:
            numbers = numbers ^ numbers_of(next(bases), coding.itemsize)
        for plane in planes(numbers, turned=coding.turned):
            plain = plane.tobytes()
            coded = compress(plain)
            if len(coded) < len(plain):
                yield struct.pack("<I", len(coded)) + coded
            else:
                yield struct.pack("<I", len(plain) | STORED) + plain


def decoded(read: Read, nbytes: int, *, base: Iterable[bytes] | None = None) -> Iterator[bytes]:
    """The plain chunks, `nbytes` in all; `read(k)` gives the next k coded bytes.

    Raises:
        CheckpointError: this is not what `encoded` writes.
    """
    magic, itemsize, flags, zero = _exactly(read, 4)
    against = bool(flags & AGAINST_BASE)
    if magic != MAGIC or zero or flags > 3 or itemsize not in (1, 2, 4, 8) or against != (base is not None):
        raise CheckpointError("its coding is damaged")
    bases = iter(base) if base is not None else None
    done = 0
    while done < nbytes:
        (count,) = struct.unpack("<I", _exactly(read, 4))
        if not 0 < count <= min(CHUNK, nbytes - done) or count % itemsize:
            raise CheckpointError("its coding is damaged")
        mixed = np.empty((count // itemsize, itemsize), dtype=np.uint8)
        for plane in range(itemsize):
            mixed[:, plane] = _plane(read, count // itemsize)
        numbers = mixed.reshape(-1).view(f"<u{itemsize}")
        if flags & TURNED:
            numbers = (numbers >> 1) | (numbers << (8 * itemsize - 1))
        if bases is not None:
            numbers = numbers ^ numbers_of(next(bases), itemsize)
        done += count
        yield numbers.tobytes()


def planes(numbers: np.ndarray, *, turned: bool) -> np.ndarray:
    """[bytes per number, numbers]: the lowest bytes first."""
    if turned:
        numbers = (numbers << 1) | (numbers >> (8 * numbers.itemsize - 1))
    return numbers.view(np.uint8).reshape(-1, numbers.itemsize).T


def numbers_of(chunk: bytes, itemsize: int) -> np.ndarray:
    """Plain bytes as unsigned integers."""
    return np.frombuffer(chunk, dtype=f"<u{itemsize}")


def _plane(read: Read, count: int) -> np.ndarray:
    zstandard = _zstandard()
    (length,) = struct.unpack("<I", _exactly(read, 4))
    if length & ~STORED > count:
        raise CheckpointError("its coding is damaged")
    coded = _exactly(read, length & ~STORED)
    if length & STORED:
        plain = coded
    else:
        try:
            if zstandard.frame_content_size(coded) != count:  # believed, it would be allocated
                raise CheckpointError("its coding is damaged")
            plain = zstandard.ZstdDecompressor().decompress(coded)
        except zstandard.ZstdError:
            raise CheckpointError("its coding is damaged") from None
    if len(plain) != count:
        raise CheckpointError("its coding is damaged")
    return np.frombuffer(plain, dtype=np.uint8)


def _exactly(read: Read, count: int) -> bytes:
    found = read(count)
    if len(found) != count:
        raise CheckpointError("its coding is damaged")
    return found


def _plane_compressor() -> zstandard.ZstdCompressor:
    """Entropy coding with hardly any search: exponents repeat by chance, and such matches cost more than they save.

    With 64 places in the table of what was seen, bf16 noise takes .663 of its size instead of .680, eight times faster.
    """
    zstandard = _zstandard()
    parameters = zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_FAST, min_match=7, window_log=17, hash_log=6, chain_log=6
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def _text_compressor() -> zstandard.ZstdCompressor:
    return _zstandard().ZstdCompressor(level=TEXT_LEVEL)


def _zstandard() -> Any:
    """The package that codes planes.

    Raises:
        InputError: it is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise InputError("unions are coded by zstandard: pip install 'nexus-universal[fusion]'") from None
    return zstandard
