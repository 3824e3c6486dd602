"""What is coded comes back, byte for byte, whatever the numbers are; what is damaged is refused."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.checkpoint.files import DTYPES
from nexus_universal.fusion.union import coding as module
from nexus_universal.fusion.union.bases import Bases
from nexus_universal.fusion.union.coding import TEXT, Coding, decoded, encoded


def pieces(data: bytes) -> list[bytes]:
    return [data[at : at + module.CHUNK] for at in range(0, len(data), module.CHUNK)]


def through(data: bytes, coding: Coding, base: bytes | None = None) -> tuple[bytes, bytes]:
    """The coded bytes, and what they are decoded to."""
    against = pieces(base) if base is not None else None
    coded = b"".join(encoded(pieces(data), coding, base=against))
    read = io.BytesIO(coded)
    plain = b"".join(decoded(read.read, len(data), base=against))
    assert not read.read()
    return coded, plain


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@given(data=st.data())
@settings(max_examples=15)
def test_every_dtype_and_size_comes_back(dtype: torch.dtype, data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 64)
        count = data.draw(st.integers(0, 40)) * dtype.itemsize
        plain, other = (data.draw(st.binary(min_size=count, max_size=count)) for _ in range(2))
        assert through(plain, Coding.of(dtype))[1] == plain
        assert through(plain, Coding.of(dtype), base=other)[1] == plain
        assert through(plain, TEXT)[1] == plain


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.67), (torch.float32, 0.84), (torch.float16, 0.85)])
def test_gaussian_weights_shrink_to_what_their_exponents_leave(dtype: torch.dtype, bound: float) -> None:
    weights = 0.02 * torch.randn(1 << 17, generator=torch.Generator().manual_seed(1))
    plain = weights.to(dtype).view(torch.uint8).numpy().tobytes()
    coded, again = through(plain, Coding.of(dtype))
    assert again == plain and len(coded) < bound * len(plain)
    unturned, _ = through(plain, Coding(dtype.itemsize))
    assert len(coded) <= len(unturned)


def test_damage_is_refused_or_shows() -> None:
    plain = torch.arange(300, dtype=torch.int16).view(torch.uint8).numpy().tobytes()
    coded, _ = through(plain, Coding.of(torch.int16))
    for at in range(len(coded)):
        damaged = bytearray(coded)
        damaged[at] ^= 0x40
        try:
            again = b"".join(decoded(io.BytesIO(bytes(damaged)).read, len(plain)))
        except CheckpointError:
            continue
        assert len(again) == len(plain)
    for cut in (0, 3, 5, 9, len(coded) - 1):
        with pytest.raises(CheckpointError, match="coding is damaged"):
            list(decoded(io.BytesIO(coded[:cut]).read, len(plain)))
    with pytest.raises(CheckpointError, match="coding is damaged"):
        list(decoded(io.BytesIO(coded).read, len(plain), base=[plain]))


def test_without_the_package_that_codes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(InputError, match=r"pip install 'nexus-universal\[fusion\]'"):
        list(encoded([b"ab"], TEXT))


def test_the_nearest_base_is_the_one_that_was_moved_least() -> None:
    draw = np.random.default_rng(0)
    coding = Coding.of(torch.float32)
    bases, weights = Bases(), draw.normal(size=(20, 4096)).astype(np.float32)
    for index, row in enumerate(weights):
        bases.add("kind", str(index), row.view("<u4"))
    for step, found in ((1e-4, "13"), (1e-2, "13"), (3.0, None)):
        moved = (weights[13] + step * draw.normal(size=4096)).astype(np.float32)
        assert bases.nearest("kind", moved.view("<u4"), coding) == found
    assert bases.nearest("another kind", weights[13].view("<u4"), coding) is None
    assert bases.nearest("kind", weights[0][:0].view("<u4"), coding) is None
