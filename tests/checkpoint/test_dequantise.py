"""Dequantising: bit by bit as the reference does, and by the definition where it cannot or does otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.dequantise import scale_blocks
from nexus_universal.checkpoint.files import TensorStore
from tests.checkpoint.quantised import random_packed, random_values, store_of

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SCALES = (torch.float32, torch.bfloat16, torch.float8_e8m0fnu, torch.uint8)
NAME = "model.layers.0.mlp.up_proj.weight"
PACKED = "model.layers.0.mlp.experts.down_proj"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal to the sign of a zero and the payload of a NaN."""
    whole = {2: torch.int16, 4: torch.int32}[a.element_size()]
    return a.dtype == b.dtype and torch.equal(a.contiguous().view(whole), b.contiguous().view(whole))


def random_scales(*shape: int, dtype: torch.dtype, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.uint8:
        return torch.randint(0, 255, shape, dtype=dtype, generator=generator)
    return (torch.randn(shape, generator=generator).abs() + 0.01).to(dtype)


def by_definition(values: Tensor, scales: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Element by element: each with the scale of the block it lies in, in float32, rounded once."""
    rows = torch.arange(values.shape[-2]) // block[0]
    columns = torch.arange(values.shape[-1]) // block[1]
    return (values.float() * scales.float()[..., rows[:, None], columns]).to(dtype)


# 8 bits


@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    block=st.tuples(st.integers(1, 150), st.integers(1, 40)),
    experts=st.sampled_from([(), (3,)]),
    scale=st.sampled_from(SCALES),
    dtype=st.sampled_from(DTYPES),
)
def test_whole_blocks_are_scaled_as_the_reference_does(
    grid: tuple[int, int],
    block: tuple[int, int],
    experts: tuple[int, ...],
    scale: torch.dtype,
    dtype: torch.dtype,
    tmp_path: Path,
) -> None:
    values = random_values(*experts, grid[0] * block[0], grid[1] * block[1])
    scales = random_scales(*experts, *grid, dtype=scale)
    store = store_of(
        tmp_path, {NAME: values, f"{NAME}_scale_inv": scales}, dtype, quant_method="fp8", weight_block_size=list(block)
    )
    assert set(store.infos) == {NAME} and store.infos[NAME].shape == values.shape
    assert same_bits(store.read(NAME), Fp8Dequantize(None)._dequantize_one(values, scales, dtype))


@given(
    shape=st.tuples(st.integers(1, 600), st.integers(1, 80)),
    block=st.tuples(st.integers(1, 300), st.integers(1, 50)),
    experts=st.sampled_from([(), (2,)]),
    dtype=st.sampled_from(DTYPES),
)
def test_blocks_cut_short_keep_their_own_scale(
    shape: tuple[int, int], block: tuple[int, int], experts: tuple[int, ...], dtype: torch.dtype, tmp_path: Path
) -> None:
    """Rows and columns that no block divides: the last ones are narrower, as in DeepSeek-V3's [576, 7168]."""
    values = random_values(*experts, *shape)
    scales = random_scales(
        *experts, *(-(-side // of) for side, of in zip(shape, block, strict=True)), dtype=torch.float32
    )
    store = store_of(
        tmp_path, {NAME: values, f"{NAME}_scale_inv": scales}, dtype, quant_method="fp8", weight_block_size=list(block)
    )
    assert same_bits(store.read(NAME), by_definition(values, scales, block, dtype))


def test_the_reference_refuses_blocks_cut_short_or_mistakes_them() -> None:
    """It takes the block's size from the grid, not from the config."""
    reference = Fp8Dequantize(None)._dequantize_one
    values = random_values(576, 128)
    with pytest.raises(ValueError, match="not divisible by scale grid"):
        reference(values, random_scales(5, 1, dtype=torch.float32), torch.bfloat16)
    values, scales = random_values(192, 128), random_scales(2, 1, dtype=torch.float32)
    ours = torch.empty(192, 128)
    scale_blocks(values, scales, ours, block=(128, 128))
    theirs = reference(values, scales, torch.float32)
    assert same_bits(ours, by_definition(values, scales, (128, 128), torch.float32))
    assert same_bits(theirs, by_definition(values, scales, (96, 128), torch.float32)) and not same_bits(ours, theirs)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_scale_for_a_matrix(shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path) -> None:
    values, scales = random_values(300, 20), torch.full(shape, 0.37)
    store = store_of(
        tmp_path, {NAME: values, f"{NAME}_scale_inv": scales}, dtype, quant_method="fp8", weight_block_size=None
    )
    assert same_bits(store.read(NAME), Fp8Dequantize(None)._dequantize_one(values, scales, dtype))


def test_every_exponent_byte_is_a_power_of_two() -> None:
    values, scales = torch.ones(256, 1).to(torch.float8_e4m3fn), torch.arange(256, dtype=torch.uint8).unsqueeze(1)
    for kind in (torch.uint8, torch.float8_e8m0fnu):
        out = torch.empty(256, 1)
        scale_blocks(values, scales.view(kind), out, block=(1, 1))
        assert same_bits(out, Fp8Dequantize(None)._dequantize_one(values, scales.view(kind), torch.float32))
        assert out[:255].flatten().tolist() == [2.0 ** (byte - 127) for byte in range(255)]


def test_the_usual_block_is_128_by_128_and_that_of_mxfp8_1_by_32(tmp_path: Path) -> None:
    values = random_values(200, 130)
    for method, block in (("fp8", (128, 128)), ("mxfp8", (1, 32))):
        grid = [-(-side // of) for side, of in zip(values.shape, block, strict=True)]
        scales = random_scales(*grid, dtype=torch.float32)
        store = store_of(tmp_path / method, {NAME: values, f"{NAME}_scale_inv": scales}, quant_method=method)
        assert same_bits(store.read(NAME), by_definition(values, scales, block, torch.bfloat16))


# 4 bits


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_byte_with_every_scale_is_unpacked_as_the_reference_does(dtype: torch.dtype, tmp_path: Path) -> None:
    packed = torch.arange(256, dtype=torch.uint8).view(16, 16).expand(1, 256, 16, 16)
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1).expand(1, 256, 16)
    tensors = {f"{PACKED}_blocks": packed, f"{PACKED}_scales": scales}
    ours = store_of(tmp_path, tensors, dtype, quant_method="mxfp4").read(PACKED)
    assert ours.isinf().any() and (ours == 6 * 2.0**-10).any()
    assert same_bits(ours, convert_moe_packed_tensors(packed, scales, dtype=dtype))


@given(experts=st.integers(1, 3), rows=st.integers(1, 70), blocks=st.integers(1, 5), dtype=st.sampled_from(DTYPES))
def test_experts_of_any_shape_are_unpacked_as_the_reference_does(
    experts: int, rows: int, blocks: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    packed, scales = random_packed(experts, rows, blocks)
    tensors = {f"{PACKED}_blocks": packed, f"{PACKED}_scales": scales}
    store = store_of(tmp_path, tensors, dtype, quant_method="mxfp4")
    assert set(store.infos) == {PACKED} and store.infos[PACKED].shape == (experts, 32 * blocks, rows)
    expected = convert_moe_packed_tensors(packed, scales, dtype=dtype)
    assert same_bits(store.read(PACKED), expected) and store.read(PACKED).is_contiguous()
    into = torch.empty(1 + experts, 32 * blocks, rows, dtype=dtype)
    store.read_into(PACKED, into[1:])
    assert same_bits(into[1:], expected)


# The store


def test_plain_tensors_are_mapped_and_weights_read_into_a_slice(tmp_path: Path) -> None:
    values, scales, plain = random_values(20, 24), random_scales(3, 3, dtype=torch.float32), torch.randn(4).bfloat16()
    tensors = {NAME: values, f"{NAME}_scale_inv": scales, "model.norm.weight": plain}
    store = store_of(tmp_path, tensors, quant_method="fp8", weight_block_size=[8, 8])
    assert torch.equal(store.read("model.norm.weight"), plain)
    assert store.nbytes == values.nbytes + scales.nbytes + plain.nbytes
    expected = by_definition(values, scales, (8, 8), torch.float32)
    for dtype in DTYPES:
        into = torch.zeros(3, 20, 24, dtype=dtype)
        store.read_into(NAME, into[1])
        assert same_bits(into[1], expected.to(dtype)) and not into[0].any() and not into[2].any()
        into = torch.zeros(4, dtype=dtype)
        store.read_into("model.norm.weight", into)
        assert torch.equal(into, plain.to(dtype))


def test_scales_of_activations_are_passed_over(tmp_path: Path) -> None:
    other = "model.layers.0.mlp.down_proj.activation_scale"
    tensors = {
        NAME: random_values(8, 8),
        f"{NAME}_scale_inv": torch.ones(()),
        NAME.replace("weight", "activation_scale"): torch.ones(()),
        other: torch.ones(()),
    }
    store = store_of(tmp_path, tensors, quant_method="fp8", weight_block_size=None)
    assert list(store.passed_over) == ["model.layers.0.mlp.up_proj.activation_scale"]
    assert set(store.infos) == {NAME, other}, "one without a quantised weight stays, to be named as unexpected"


EIGHT: dict[str, Tensor] = {NAME: random_values(20, 24), f"{NAME}_scale_inv": torch.ones(3, 3)}
FOUR: dict[str, Tensor] = dict(zip((f"{PACKED}_blocks", f"{PACKED}_scales"), random_packed(2, 6, 3), strict=True))
DAMAGE: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "fp8 without a scale": ({f"{NAME}_scale_inv": None}, f"{NAME} stands alone: {NAME}_scale_inv is missing"),
    "a scale without its weight": ({NAME: None}, f"{NAME}_scale_inv stands alone: {NAME} is missing"),
    "a weight that is plain": (
        {NAME: torch.ones(20, 24)},
        f"{NAME} is of torch.float32, but fp8 with {NAME}_scale_inv asks for torch.float8_e4m3fn",
    ),
    "another fp8": ({NAME: EIGHT[NAME].to(torch.float8_e5m2)}, f"{NAME} is of torch.float8_e5m2"),
    "packed fp4": ({NAME: torch.ones(20, 12, dtype=torch.int8)}, f"{NAME} is of torch.int8, but fp8 with"),
    "a smaller grid": (
        {f"{NAME}_scale_inv": torch.ones(2, 3)},
        f"{NAME}_scale_inv has shape (2, 3), but {NAME} of shape (20, 24) asks for (3, 3) (blocks of 8 × 8)",
    ),
    "a transposed grid": ({NAME: random_values(20, 32)}, r"has shape (3, 3), but"),
    "one scale": ({f"{NAME}_scale_inv": torch.ones(1)}, "has shape (1,), but"),
    "a vector": ({NAME: random_values(20)}, f"{NAME} has shape (20,), must be a matrix"),
    "whole numbers as scales": ({f"{NAME}_scale_inv": torch.ones(3, 3).int()}, "is of torch.int32, which is no scale"),
    "blocks without scales": ({f"{PACKED}_scales": None}, f"{PACKED}_blocks stands alone: {PACKED}_scales is missing"),
    "scales without blocks": ({f"{PACKED}_blocks": None}, f"{PACKED}_scales stands alone: {PACKED}_blocks is missing"),
    "fewer scales": (
        {f"{PACKED}_scales": torch.ones(2, 6, 2, dtype=torch.uint8)},
        f"{PACKED}_scales has shape (2, 6, 2), but {PACKED}_blocks of shape (2, 6, 3, 16) asks for (2, 6, 3)",
    ),
    "blocks of another length": (
        {f"{PACKED}_blocks": torch.ones(2, 6, 3, 8, dtype=torch.uint8)},
        "has shape (2, 6, 3, 8), must be (experts, out, blocks, 16)",
    ),
    "blocks that are floats": ({f"{PACKED}_blocks": torch.ones(2, 6, 3, 16)}, "is of torch.float32, but mxfp4 with"),
    "scales that are floats": ({f"{PACKED}_scales": torch.ones(2, 6, 3)}, "is of torch.float32, which is no scale"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_does_not_belong_together_is_named_and_nothing_read(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorStore, "read", None)
    edits, words = DAMAGE[damage]
    packed = any("experts" in name for name in edits)
    tensors: dict[str, Any] = (FOUR if packed else EIGHT) | edits
    config: dict[str, Any] = (
        {"quant_method": "mxfp4"} if packed else {"quant_method": "fp8", "weight_block_size": [8, 8]}
    )
    with pytest.raises(CheckpointError) as caught:
        store_of(tmp_path, {name: t for name, t in tensors.items() if t is not None}, **config)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_undamaged_tensors_load(tmp_path: Path) -> None:
    """The damage above is found, not what it was done to."""
    assert set(store_of(tmp_path / "8", EIGHT, quant_method="fp8", weight_block_size=[8, 8]).infos) == {NAME}
    assert set(store_of(tmp_path / "4", FOUR, quant_method="mxfp4").infos) == {PACKED}
