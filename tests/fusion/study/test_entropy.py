"""Entropies and coded sizes against plain Python."""

from __future__ import annotations

import math
import struct
import sys
from collections import Counter

import pytest
import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.study.entropy import (
    byte_planes,
    compressed_share,
    exponent_entropy,
    implied_share,
    plane_entropies,
)

NORMAL = torch.randn(5000, generator=torch.Generator().manual_seed(0))


def entropy(symbols: list[int]) -> float:
    return -sum(c / len(symbols) * math.log2(c / len(symbols)) for c in Counter(symbols).values())


@pytest.mark.parametrize(
    ("dtype", "form", "shift", "mask"),
    [(torch.float32, ">f", 23, 255), (torch.bfloat16, ">f", 23, 255), (torch.float16, ">e", 10, 31)],
)
def test_exponents_are_those_of_the_format(dtype: torch.dtype, form: str, shift: int, mask: int) -> None:
    tensor = NORMAL.to(dtype)
    words = [int.from_bytes(struct.pack(form, x), "big") for x in tensor.tolist()]
    assert exponent_entropy(tensor) == pytest.approx(entropy([(word >> shift) & mask for word in words]), abs=1e-9)


def test_a_normal_distributions_exponents_leave_two_thirds() -> None:
    """DFloat11's observation: 2.6 of 8 bits; and fp32 cannot gain more than a sixth."""
    assert 2.4 < exponent_entropy(NORMAL.bfloat16()) < 2.8
    assert implied_share(NORMAL.bfloat16()) == pytest.approx((8 + exponent_entropy(NORMAL.bfloat16())) / 16)
    assert 0.82 < implied_share(NORMAL) < 0.85


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_planes_hold_every_bit(dtype: torch.dtype) -> None:
    tensor = NORMAL.to(dtype)
    planes, size = byte_planes(tensor), tensor.element_size()
    words = sum(planes[i].long() << (8 * (size - 1 - i)) for i in range(size))
    back = (words >> 1) | ((words & 1) << (8 * size - 1))
    kind = {2: torch.int16, 4: torch.int32}[size]
    signed = torch.where(back >= 1 << (8 * size - 1), back - (1 << (8 * size)), back).to(kind)
    assert torch.equal(signed.view(dtype), tensor)
    assert len(plane_entropies(planes)) == size and max(plane_entropies(planes)) <= 8


def test_exclusive_or_leaves_what_changed() -> None:
    tensor = NORMAL.bfloat16()
    assert int(byte_planes(tensor, tensor).sum()) == 0
    assert compressed_share(byte_planes(tensor, tensor)) < 0.02
    one = tensor.clone()
    one[17] = -one[17]
    changed = byte_planes(one, tensor)
    assert changed.count_nonzero() == 1 and int(changed[1, 17]) == 1  # the sign, turned to the end


def test_compressing_is_near_the_entropy_and_needs_no_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    planes = byte_planes(
        NORMAL.repeat(10).bfloat16()[torch.randperm(50000, generator=torch.Generator().manual_seed(1))]
    )
    bound = sum(plane_entropies(planes)) / 16
    assert bound - 0.01 < compressed_share(planes) < bound + 0.06
    monkeypatch.setitem(sys.modules, "zstandard", None)
    assert bound - 0.01 < compressed_share(planes) < bound + 0.1


def test_what_has_no_exponent_is_refused() -> None:
    with pytest.raises(InputError, match=r"numbers of torch.int64 have no known exponent"):
        exponent_entropy(torch.arange(3))
    with pytest.raises(InputError, match=r"a base must be torch.float32 of \(5000,\), not torch.bfloat16"):
        byte_planes(NORMAL, NORMAL.bfloat16())
