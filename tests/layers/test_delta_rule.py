"""The gated delta rule: chunks, recurrence and written-out equations agree; transformers' functions bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3_next import modeling_qwen3_next as reference

from nexus_universal.layers.delta_rule import chunked_delta_rule, recurrent_delta_rule
from tests.helpers import furthest, same

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(
    seq: int, *, key_heads: int = 2, value_heads: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    query, key = normal(2, seq, key_heads, 8), normal(2, seq, key_heads, 8)
    value = normal(2, seq, value_heads, 6)
    decay = -torch.rand(2, seq, value_heads, generator=generator) * 2
    beta = torch.rand(2, seq, value_heads, generator=generator).to(dtype)
    return query, key, value, decay, beta


def defined(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S ← exp(g)·S;  S ← S + k (β (v − kᵀS))ᵀ;  o = Sᵀ q · d^-0.5, in float64, index by index."""
    query, key, value, decay, beta = (x.double() for x in (query, key, value, decay, beta))
    query, key = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (query, key))
    batch, seq, heads, width = value.shape
    times = heads // key.shape[2]
    out = torch.zeros_like(value)
    last = torch.zeros(batch, heads, key.shape[-1], width).double() if state is None else state.double().clone()
    for b in range(batch):
        for h in range(heads):
            matrix = last[b, h]
            for t in range(seq):
                k, q = key[b, t, h // times], query[b, t, h // times]
                matrix = decay[b, t, h].exp() * matrix
                matrix = matrix + torch.outer(k, beta[b, t, h] * (value[b, t, h] - k @ matrix))
                out[b, t, h] = q @ matrix * key.shape[-1] ** -0.5
            last[b, h] = matrix
    return out, last


@settings(max_examples=25)
@given(
    seq=st.sampled_from([1, 2, 5, 16, 17, 33]),
    chunk=st.sampled_from([4, 16, 64]),
    grouped=st.booleans(),
    continued=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_forms_are_the_definition(seq: int, chunk: int, grouped: bool, continued: bool, seed: int) -> None:
    query, key, value, decay, beta = inputs(seq, key_heads=2 if grouped else 4, seed=seed)
    state = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(seed)) if continued else None
    expected, last = defined(query, key, value, decay, beta, state)
    for out, after in (
        chunked_delta_rule(query, key, value, decay=decay, beta=beta, state=state, chunk=chunk),
        recurrent_delta_rule(query, key, value, decay=decay, beta=beta, state=state),
    ):
        assert furthest(out.double(), expected) < 2e-5
        assert furthest(after.double(), last) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("seq", [1, 63, 64, 65, 130])
def test_both_forms_are_the_references_bit_for_bit(
    seq: int, continued: bool, grouped: bool, dtype: torch.dtype
) -> None:
    query, key, value, decay, beta = inputs(seq, key_heads=2 if grouped else 4, dtype=dtype)
    state = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(5)) if continued else None
    options = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    expected = reference.torch_chunk_gated_delta_rule(query, key, value, g=decay, beta=beta, chunk_size=64, **options)
    found = chunked_delta_rule(query, key, value, decay=decay, beta=beta, state=state, chunk=64)
    assert same(found[0], expected[0]) and same(found[1], expected[1])
    expected = reference.torch_recurrent_gated_delta_rule(query, key, value, g=decay, beta=beta, **options)
    found = recurrent_delta_rule(query, key, value, decay=decay, beta=beta, state=state)
    assert same(found[0], expected[0]) and same(found[1], expected[1])


@settings(max_examples=20)
@given(cut=st.integers(1, 39), seed=st.integers(0, 99))
def test_a_state_continues_where_it_was_left(cut: int, seed: int) -> None:
    whole = inputs(40, seed=seed)
    options = {"chunk": 16, "state": None}
    out, last = run(whole, **options)
    first, state = run(tuple(x[:, :cut] for x in whole), **options)
    second, end = run(tuple(x[:, cut:] for x in whole), chunk=16, state=state)
    assert furthest(torch.cat([first, second], dim=1), out) < 2e-5
    assert furthest(end, last) < 2e-5


def run(given_inputs: tuple[Tensor, ...], *, chunk: int, state: Tensor | None) -> tuple[Tensor, Tensor]:
    query, key, value, decay, beta = given_inputs
    return chunked_delta_rule(query, key, value, decay=decay, beta=beta, state=state, chunk=chunk)


def test_the_future_changes_nothing() -> None:
    first = inputs(40)
    second = tuple(torch.cat([x[:, :20], y[:, 20:]], dim=1) for x, y in zip(first, inputs(40, seed=1), strict=True))
    assert torch.equal(run(first, chunk=64, state=None)[0][:, :20], run(second, chunk=64, state=None)[0][:, :20])


def test_no_decay_and_no_writing_leave_the_state_as_it_is() -> None:
    """What a pad behind the last token does: log-decay 0 and β 0."""
    query, key, value, decay, beta = inputs(9)
    state = torch.randn(2, 4, 8, 6)
    for form in (chunked_delta_rule, recurrent_delta_rule):
        options = {"chunk": 64} if form is chunked_delta_rule else {}
        _, after = form(query, key, value, decay=0 * decay, beta=0 * beta, state=state, **options)
        assert torch.equal(after, state)


def test_strong_decay_does_not_overflow() -> None:
    query, key, value, decay, beta = inputs(100)
    out, state = chunked_delta_rule(query, key, value, decay=decay * 200, beta=beta, state=None, chunk=64)
    assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(state).all())
