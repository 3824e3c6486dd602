"""How many bits weights really hold: entropies of exponents and bytes, and sizes that a compressor reaches.

A word is turned left by one bit first, so that in bfloat16 and float32 the first byte is the exponent and the sign
joins the fraction (the split of ZipNN, arXiv 2411.05239, and DFloat11, arXiv 2504.11651).
"""

from __future__ import annotations

import importlib
import zlib

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from nexus_universal.architecture.errors import InputError

WORDS = {2: (torch.int16, 16), 4: (torch.int32, 32)}
EXPONENTS = {torch.bfloat16: 8, torch.float32: 8, torch.float16: 5}


def _words(tensor: Tensor) -> tuple[Int[Tensor, " numbers"], int]:
    """The bits of each number as an integer, and how many they are."""
    if tensor.dtype not in EXPONENTS:
        raise InputError(f"numbers of {tensor.dtype} have no known exponent (known: {', '.join(map(str, EXPONENTS))})")
    kind, bits = WORDS[tensor.element_size()]
    return tensor.detach().cpu().contiguous().flatten().view(kind).long() & ((1 << bits) - 1), bits


def _entropy(symbols: Int[Tensor, " numbers"], kinds: int) -> float:
    share = torch.bincount(symbols.long(), minlength=kinds).double() / max(1, symbols.numel())
    return float(-torch.xlogy(share, share).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))


def exponent_entropy(tensor: Tensor) -> float:
    """Bits that an exponent holds, were each coded by itself; at most 8 in bfloat16 and float32.

    Raises:
        InputError: numbers of another dtype.
    """
    words, bits = _words(tensor)
    width = EXPONENTS[tensor.dtype]
    return _entropy((words >> (bits - 1 - width)) & ((1 << width) - 1), 1 << width)


def implied_share(tensor: Tensor) -> float:
    """The size, relative to the plain one, where only exponents are coded, and coded perfectly."""
    bits = 8 * tensor.element_size()
    return (bits - EXPONENTS[tensor.dtype] + exponent_entropy(tensor)) / bits


def byte_planes(tensor: Tensor, base: Tensor | None = None) -> UInt8[Tensor, "bytes numbers"]:
    """First bytes, second bytes … of each turned word; with a `base`, of its exclusive or with the base's word.

    Raises:
        InputError: a base of another shape or dtype.
    """
    words, bits = _words(tensor)
    if base is not None:
        if base.dtype != tensor.dtype or base.shape != tensor.shape:
            raise InputError(
                f"a base must be {tensor.dtype} of {tuple(tensor.shape)}, not {base.dtype} of {base.shape}"
            )
        words = words ^ _words(base)[0]
    turned = ((words << 1) | (words >> (bits - 1))) & ((1 << bits) - 1)
    shifts = torch.arange(bits - 8, -1, -8)
    return ((turned >> shifts[:, None]) & 0xFF).to(torch.uint8)


def plane_entropies(planes: UInt8[Tensor, "bytes numbers"]) -> list[float]:
    """Bits per byte of each plane, its bytes taken one by one; their mean over 8 is the share that coding leaves."""
    return [_entropy(plane, 256) for plane in planes]


def compressed_share(planes: UInt8[Tensor, "bytes numbers"]) -> float:
    """The size that zstandard (zlib where it is not installed) makes of the planes, relative to the plain one."""
    return sum(len(_compressed(plane.numpy().tobytes())) for plane in planes) / max(1, planes.numel())


def _compressed(data: bytes) -> bytes:
    try:
        return importlib.import_module("zstandard").ZstdCompressor(level=10).compress(data)
    except ImportError:
        return zlib.compress(data, 6)
