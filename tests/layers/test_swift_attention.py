"""Faster forms of attention: no further from the truth than the kernels that they stand in for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nexus_universal.layers.kernels import eager_attention, fused_attention
from nexus_universal.layers.swift_attention import BLOCK, swift_attention

HEADS, WIDTH, VALUE_WIDTH, SCALE = 4, 16, 24, 0.31


def drawn(queries: int, keys: int, *, kv_heads: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(queries)
    shapes = [(2, queries, HEADS, WIDTH), (2, keys, kv_heads, WIDTH), (2, keys, kv_heads, VALUE_WIDTH)]
    return [(2 * torch.randn(shape)).to(dtype).transpose(1, 2) for shape in shapes]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def visible(queries: int, keys: int) -> Tensor:
    """Two rows, the second of which begins with pads."""
    seen = torch.ones(2, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    seen[1, ..., :2] = False
    return seen


@pytest.mark.parametrize("kv_heads", [1, 2, HEADS])
@pytest.mark.parametrize(
    ("queries", "keys", "masked"),
    [
        (1, 9, None),
        (1, 9, torch.bool),
        (1, 9, torch.bfloat16),
        (7, 9, torch.bool),
        (2, 2, None),
        (BLOCK, BLOCK, None),
        (BLOCK + 1, BLOCK + 1, None),
        (2 * BLOCK + 9, 2 * BLOCK + 9, None),
    ],
)
def test_it_is_as_near_to_the_truth_as_the_kernels(
    queries: int, keys: int, masked: torch.dtype | None, kv_heads: int
) -> None:
    """It rounds as often as the eager form; twice its error is for the chance of small samples."""
    roles = drawn(queries, keys, kv_heads=kv_heads, dtype=torch.bfloat16)
    seen = visible(queries, keys) if masked else torch.ones(2, 1, queries, keys, dtype=torch.bool).tril(keys - queries)
    mask = None if masked is None else seen if masked == torch.bool else additive(seen, masked)
    truth = eager_attention(*(role.double() for role in roles), mask=additive(seen, torch.float64), scale=SCALE)
    eager = eager_attention(*roles, mask=additive(seen, torch.bfloat16), scale=SCALE)
    fused = fused_attention(*roles, mask=mask, scale=SCALE)
    found = swift_attention(*roles, mask=mask, scale=SCALE)
    assert found.dtype == torch.bfloat16 and found.shape == fused.shape
    far = [float((each.double() - truth).square().mean().sqrt()) for each in (eager, fused)]
    assert float((found.double() - truth).square().mean().sqrt()) <= 2 * max(far)


@pytest.mark.parametrize("queries", [1, 9])
def test_a_bias_is_added(queries: int) -> None:
    roles = drawn(queries, 9, kv_heads=2, dtype=torch.bfloat16)
    bias = torch.randn(2, HEADS, queries, 9).bfloat16()
    found, fused = (attend(*roles, mask=None, scale=SCALE, bias=bias) for attend in (swift_attention, fused_attention))
    torch.testing.assert_close(found, fused, rtol=0.05, atol=0.05)
    assert not torch.allclose(found, swift_attention(*roles, mask=None, scale=SCALE), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("queries", [1, 5])
def test_other_dtypes_are_left_to_the_kernel(queries: int) -> None:
    roles = drawn(queries, 5, kv_heads=2, dtype=torch.float32)
    found, fused = (attend(*roles, mask=None, scale=SCALE) for attend in (swift_attention, fused_attention))
    assert torch.equal(found, fused)
