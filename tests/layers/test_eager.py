"""Attention written out: caps, sinks and masks against their definition, and the forms that share one function."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.masking_utils import causal_mask_function, eager_mask, sliding_window_causal_mask_function
from transformers.models.granite_swa.modeling_granite_swa import eager_attention_forward as granite_attention

from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.position import Rope
from nexus_universal.cache import Cache
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.call import CallPlan, MaskKind
from nexus_universal.layers.kernels import eager_attention, fused_attention, gated_eager_attention
from nexus_universal.layers.masks import Extent, additive, attention_mask
from tests.helpers import furthest, ids, pair, same

LOWEST = torch.finfo(torch.float32).min


def inputs(kv_heads: int, queries: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key, value, and an additive causal mask with a hidden key."""
    generator = torch.Generator().manual_seed(queries)
    query, key, value = (
        torch.randn(2, heads, length, 8, generator=generator).to(dtype)
        for heads, length in ((4, queries), (kv_heads, 6), (kv_heads, 6))
    )
    seen = torch.ones(queries, 6, dtype=torch.bool).tril(6 - queries)[None, None].repeat(2, 1, 1, 1)
    seen[1, ..., 1] = False
    return query, key, value, additive(seen, dtype)


@settings(max_examples=60)
@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    queries=st.sampled_from([1, 3, 6]),
    softcap=st.sampled_from([None, 0.7, 50.0]),
    sinks=st.booleans(),
)
def test_it_is_its_definition(kv_heads: int, queries: int, softcap: float | None, sinks: bool) -> None:
    query, key, value, mask = inputs(kv_heads, queries)
    sink = torch.tensor([-1.0, 0.0, 2.0, 5.0]) if sinks else None
    found = eager_attention(query, key, value, mask=mask, scale=0.9, softcap=softcap, sinks=sink)
    for h in range(4):
        k, v = key[:, h // (4 // kv_heads)].double(), value[:, h // (4 // kv_heads)].double()
        scores = 0.9 * query[:, h].double() @ k.transpose(1, 2)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.exp() * (mask[:, 0] == 0)
        total = weights.sum(-1, keepdim=True) + (0 if sink is None else sink[h].double().exp())
        assert torch.allclose(found[:, :, h].double(), (weights / total) @ v, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("queries", [1, 3, 6])
def test_sinks_as_a_gate_are_the_same_function(kv_heads: int, queries: int) -> None:
    query, key, value, mask = inputs(kv_heads, queries)
    sinks = torch.tensor([-1.0, 0.0, 2.0, 5.0])
    joint = eager_attention(query, key, value, mask=mask, scale=0.9, sinks=sinks)
    gated = gated_eager_attention(query, key, value, mask=mask, scale=0.9, sinks=sinks)
    assert furthest(gated, joint) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sinks_as_a_gate_are_the_references(dtype: torch.dtype) -> None:
    query, key, value, mask = inputs(2, 6, dtype)
    module = torch.nn.Module()
    module.sinks = torch.nn.Parameter(torch.tensor([-1.0, 0.0, 2.0, 5.0], dtype=dtype))
    module.num_key_value_groups = 2
    theirs = granite_attention(module, query, key, value, mask, scaling=0.9)[0]
    found = gated_eager_attention(query, key, value, mask=mask, scale=0.9, sinks=module.sinks)
    assert same(found, theirs)


def test_without_cap_and_sinks_it_is_the_fused_kernel() -> None:
    query, key, value, mask = inputs(2, 6)
    fused = fused_attention(query, key, value, mask=mask == 0, scale=0.3)
    assert furthest(eager_attention(query, key, value, mask=mask, scale=0.3), fused) < 1e-5


def test_the_softmax_is_float32_but_with_sinks_or_as_asked() -> None:
    query, key, value, mask = inputs(4, 6, torch.bfloat16)
    scores = torch.matmul(query, key.transpose(2, 3)) * 0.9 + mask
    wide = scores.float().softmax(-1).bfloat16()
    assert same(
        eager_attention(query, key, value, mask=mask, scale=0.9), torch.matmul(wide, value).transpose(1, 2).contiguous()
    )
    rounded = eager_attention(query, key, value, mask=mask, scale=0.9, softmax=None)
    assert same(rounded, torch.matmul(scores.softmax(-1), value).transpose(1, 2).contiguous())
    joint = torch.cat([scores, torch.zeros(2, 4, 6, 1).bfloat16()], -1)
    for shifted, narrow in ((False, joint), (True, joint - joint.amax(-1, keepdim=True))):
        sinks = torch.zeros(4).bfloat16()
        found = eager_attention(query, key, value, mask=mask, scale=0.9, sinks=sinks, shifted=shifted)
        assert same(found, torch.matmul(narrow.softmax(-1)[..., :-1], value).transpose(1, 2).contiguous())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("seen", "new"), [(0, 5), (0, 1), (4, 1), (4, 3)])
def test_additive_masks_are_the_references(
    seen: int, new: int, padded: bool, window: int | None, dtype: torch.dtype
) -> None:
    """Always there, even where the fused kernel would need none."""
    padding = torch.ones(2, seen + new, dtype=torch.bool)
    padding[0, : (seen + new) // 2] = not padded
    extent = Extent(queries=new, keys=seen + new, query_offset=seen, key_offset=0)
    ours = attention_mask(
        extent, batch=2, device=torch.device("cpu"), window=window, padding=padding, positions=None, always=True
    )
    function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    theirs = eager_mask(2, new, seen + new, seen, 0, function, attention_mask=padding, dtype=dtype)
    assert ours is not None and same(additive(ours, dtype), theirs)


def test_a_ready_mask_is_added_whatever_its_form() -> None:
    ours = pair("gemma2")[1]
    seen = torch.ones(6, 6, dtype=torch.bool).tril()[None, None].expand(2, 1, 6, 6)
    with torch.no_grad():
        plain = ours(ids(2, 6)).logits
        for ready in (seen, torch.where(seen, 0.0, LOWEST)):
            assert same(ours(ids(2, 6), attention_mask=ready).logits, plain)


def test_kinds_of_mask_are_told_apart() -> None:
    assert [(kind.window, kind.form) for kind in pair("gemma2")[1].plan.mask_kinds] == [
        (16, "additive"),
        (None, "additive"),
    ]
    assert pair("llama")[1].plan.mask_kinds == [MaskKind()]
    assert [kind.form for kind in pair("falcon")[1].plan.mask_kinds] == ["always"]


def test_a_single_head_is_left_to_broadcasting() -> None:
    """No repeated keys, no packed queries: torch takes another kernel for it."""
    for queries in (1, 6):
        query, key, value, mask = inputs(1, queries)
        found = fused_attention(query, key, value, mask=mask == 0, scale=0.3, broadcast=True)
        kernel = torch.nn.functional.scaled_dot_product_attention
        assert same(found, kernel(query, key, value, attn_mask=mask == 0, scale=0.3).transpose(1, 2).contiguous())
        other = fused_attention(query, key, value, mask=mask == 0, scale=0.3)
        assert torch.allclose(found, other, atol=1e-6) and not torch.equal(found, other)


FORMS: dict[str, dict[str, Any]] = {
    "masked, one head broadcast": {"kv_heads": 1, "kernel": "sdpa_masked"},
    "masked, repeated first": {"kv_heads": 2, "kernel": "sdpa_masked", "repeat_first": True},
    "repeated first": {"kv_heads": 2, "repeat_first": True},
    "eager": {"kv_heads": 2, "kernel": "eager"},
    "eager, repeated first": {"kv_heads": 2, "kernel": "eager", "repeat_first": True},
    "eager, rounded": {"kv_heads": 2, "kernel": "eager_rounded"},
    "copied": {"kv_heads": 2, "contiguous": True},
    "eager, copied": {"kv_heads": 2, "kernel": "eager", "contiguous": True},
}


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_one_function_with_and_without_a_state(form: str, window: int | None) -> None:
    packing = (Packed(roles=("query", "key", "value"), groups=FORMS[form]["kv_heads"]),)
    common: dict[str, Any] = {
        "heads": 4,
        "head_dim": 6,
        "rope": Rope(theta=50.0),
        "window": window,
        "packing": packing,
        "biases": ("query", "key", "value", "output"),
    }
    plain = UniversalAttention(Attention(**common, kv_heads=FORMS[form]["kv_heads"]), d_model=10)
    torch.manual_seed(0)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter)
    plan = CallPlan()
    part = Attention(**common, **FORMS[form], late_bias=True)
    assert not list(part.problems())
    other = UniversalAttention(part, d_model=10, plan=plan, key="mixer")
    other.load_state_dict(plain.state_dict())
    x = torch.randn(2, 11, 10)
    cache = Cache({"mixer": other.new_state()}, signature="")
    pieces = []
    with torch.no_grad():
        assert furthest(other(x), plain(x)) < 1e-5
        for piece in x.split([5, 1, 4, 1], dim=1):
            pieces.append(other(piece, plan.begin(piece, cache=cache), cache["mixer"]))
            cache.length += piece.shape[1]
        assert furthest(torch.cat(pieces, dim=1), plain(x)) < 1e-5
    held = cache["mixer"].tensors()["keys"]
    assert held.shape[1] == FORMS[form]["kv_heads"], "a cache holds each head once"
