"""ALiBi: slopes by the paper's rule, biases bit by bit against the reference's, and what they mean for attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.falcon.modeling_falcon import build_alibi_tensor

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.position import Alibi
from nexus_universal.layers.alibi import UniversalAlibi, slopes
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.masks import Extent
from tests.helpers import furthest, same

PADDING = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()


def biases(part: Alibi, heads: int, scale: float, dtype: torch.dtype, padding: Tensor | None = PADDING) -> Tensor:
    """Of three rows and six keys, nothing hidden."""
    extent = Extent(queries=1, keys=6, query_offset=0, key_offset=0)
    everything = torch.ones(3, 1, 1, 6, dtype=torch.bool)
    return UniversalAlibi(part, heads=heads, scale=scale).masked(everything, extent, padding, dtype)


@pytest.mark.parametrize("heads", [1, 2, 8, 16, 32])
def test_slopes_of_a_power_of_two_are_a_geometric_series(heads: int) -> None:
    expected = torch.tensor([2 ** (-8 * h / heads) for h in range(1, heads + 1)], dtype=torch.float64)
    assert torch.allclose(slopes(heads).double(), expected, rtol=1e-5)


@pytest.mark.parametrize("heads", [3, 6, 12, 71])
def test_other_numbers_of_heads_borrow_from_twice_as_many(heads: int) -> None:
    whole = 2 ** int(math.log2(heads))
    expected = torch.cat([slopes(whole), slopes(2 * whole)[::2][: heads - whole]])
    assert torch.equal(slopes(heads), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [4, 6, 12])
def test_biases_are_the_references(heads: int, dtype: torch.dtype) -> None:
    """Rounded to bfloat16, divided by √d; positions are counted over real tokens."""
    theirs = build_alibi_tensor(PADDING.long(), heads, dtype).view(3, heads, 1, 6)
    ours = biases(Alibi(scaled=True, rounding="bfloat16"), heads, 10**-0.5, dtype)
    assert same(ours, theirs / math.sqrt(10))
    assert same(biases(Alibi(rounding="bfloat16"), heads, 10**-0.5, dtype), theirs)


def test_rounding_in_the_models_dtype_is_finer() -> None:
    exact = slopes(12).double()[None, :, None, None] * torch.arange(6).double()
    fine, coarse = (biases(Alibi(rounding=r), 12, 1.0, torch.float32, None) for r in ("model", "bfloat16"))
    assert furthest(fine.double(), exact) < 1e-7 < 1e-4 < furthest(coarse.double(), exact)


def test_hidden_keys_stay_hidden_in_either_form_of_mask() -> None:
    extent = Extent(queries=2, keys=3, query_offset=4, key_offset=3)
    seen = torch.tensor([[True, True, False], [False, True, True]])[None, None]
    alibi = UniversalAlibi(Alibi(), heads=2, scale=1.0)
    found = alibi.masked(seen, extent, None, torch.float32)
    lowest = torch.finfo(torch.float32).min
    assert torch.equal(found == lowest, ~seen.expand(1, 2, 2, 3))
    assert torch.equal(found[0, :, 1, 2], slopes(2) * 5)
    ready = torch.where(seen, 0.0, lowest)
    assert same(alibi.masked(ready, extent, None, torch.float32), found)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("kernel", ["sdpa", "sdpa_masked", "eager"])
@pytest.mark.parametrize("window", [None, 4])
def test_attention_with_biases_is_its_definition(kernel: Any, scaled: bool, window: int | None) -> None:
    part = Attention(heads=6, kv_heads=6, head_dim=5, window=window, kernel=kernel, alibi=Alibi(scaled=scaled))
    torch.manual_seed(0)
    module = UniversalAttention(part, d_model=7)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 9, 7)
    query, key, value = ((x @ module.get_submodule(r).weight.T).view(2, 9, 6, 5).double() for r in ROLES)
    out = torch.zeros(2, 9, 6, 5, dtype=torch.float64)
    for h in range(6):
        for t in range(9):
            first = 0 if window is None else max(0, t - window + 1)
            keys = torch.arange(first, t + 1)
            distance = slopes(6)[h].double() * (keys - t)  # softmax does not see a bias that all keys share
            scores = torch.einsum("bd,bsd->bs", query[:, t, h], key[:, keys, h])
            scores = (scores + distance) * 5**-0.5 if scaled else scores * 5**-0.5 + distance
            out[:, t, h] = torch.einsum("bs,bsd->bd", scores.softmax(-1), value[:, keys, h])
    with torch.no_grad():
        assert furthest(module(x).double(), out.flatten(-2) @ module.output.weight.double().T) < 1e-5


ROLES = ("query", "key", "value")
