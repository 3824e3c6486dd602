"""The scan of a state space: chunks, steps and written-out equations agree; transformers' functions bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mamba2 import modeling_mamba2 as reference

from nexus_universal.layers.selective_scan import chunked_scan, single_step
from tests.helpers import furthest, same

HEADS, WIDTH, STATE = 4, 6, 8


def inputs(seq: int, *, groups: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "x": normal(2, seq, HEADS, WIDTH),
        "b": normal(2, seq, groups, STATE),
        "c": normal(2, seq, groups, STATE),
        "step": normal(2, seq, HEADS).abs(),
        "decay": -torch.rand(HEADS, generator=generator),
        "skip": normal(HEADS),
    }


def started(seed: int = 5) -> Tensor:
    return torch.randn(2, HEADS, WIDTH, STATE, generator=torch.Generator().manual_seed(seed))


def defined(roles: dict[str, Tensor], state: Tensor | None) -> tuple[Tensor, Tensor]:
    """s ← exp(Δ·A)·s + Δ·x bᵀ, y = s c + D x, in float64, index by index."""
    x, b, c, step, decay, skip = (roles[name].double() for name in ("x", "b", "c", "step", "decay", "skip"))
    times = HEADS // b.shape[2]
    out = torch.zeros_like(x)
    last = torch.zeros(2, HEADS, WIDTH, STATE).double() if state is None else state.double().clone()
    for row in range(2):
        for head in range(HEADS):
            for t in range(x.shape[1]):
                written = step[row, t, head] * torch.outer(x[row, t, head], b[row, t, head // times])
                last[row, head] = (step[row, t, head] * decay[head]).exp() * last[row, head] + written
                out[row, t, head] = last[row, head] @ c[row, t, head // times] + skip[head] * x[row, t, head]
    return out, last


def stepped(roles: dict[str, Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """`single_step`, position after position."""
    pieces = []
    for t in range(roles["x"].shape[1]):
        at: Any = {name: roles[name][:, t] for name in ("x", "b", "c")}
        wide = roles["step"][:, t, :, None].expand_as(at["x"])
        out, state = single_step(**at, step=wide, decay=roles["decay"], skip=roles["skip"], state=state)
        pieces.append(out)
    return torch.stack(pieces, dim=1), state


@settings(max_examples=25)
@given(
    seq=st.sampled_from([1, 2, 5, 16, 17, 33]),
    chunk=st.sampled_from([4, 16, 64]),
    groups=st.sampled_from([1, 2, 4]),
    continued=st.booleans(),
    seed=st.integers(0, 99),
)
def test_both_forms_are_the_definition(seq: int, chunk: int, groups: int, continued: bool, seed: int) -> None:
    roles = inputs(seq, groups=groups, seed=seed)
    state = started(seed) if continued else None
    expected, last = defined(roles, state)
    for out, after in (
        chunked_scan(**roles, state=state, chunk=chunk),
        stepped(roles, torch.zeros_like(started()) if state is None else state),
    ):
        assert furthest(out.double(), expected) < 2e-5
        assert furthest(after.double(), last) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("seq", [1, 15, 16, 17, 50])
def test_chunks_are_the_references_bit_for_bit(seq: int, continued: bool, groups: int, dtype: torch.dtype) -> None:
    roles = inputs(seq, groups=groups, dtype=dtype)
    state = started() if continued else None
    expected = reference.mamba2_chunk_scan(
        *(roles[name] for name in ("x", "step", "decay", "b", "c")),
        chunk_size=16,
        D=roles["skip"],
        initial_states=state,
        return_final_states=True,
    )
    found = chunked_scan(**roles, state=state, chunk=16)
    assert same(found[0], expected[0]) and same(found[1], expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_step_is_the_references_bit_for_bit(groups: int, dtype: torch.dtype) -> None:
    roles = inputs(1, groups=groups, dtype=dtype)
    state, kept = started(), started()
    expected = reference.mamba2_selective_state_update(
        kept,
        roles["x"][:, 0],
        roles["step"][:, 0, :, None].expand(-1, -1, WIDTH),
        roles["decay"][:, None, None].expand(-1, WIDTH, STATE),
        roles["b"][:, 0],
        roles["c"][:, 0],
        D=roles["skip"][:, None].expand(-1, WIDTH),
    )
    out, after = stepped(roles, state)
    assert same(out[:, 0], expected) and same(after, kept)
    assert torch.equal(state, started()), "a state is replaced, never written in place"


@settings(max_examples=20)
@given(cut=st.integers(1, 39), seed=st.integers(0, 99))
def test_a_state_continues_where_it_was_left(cut: int, seed: int) -> None:
    roles = inputs(40, seed=seed)
    out, last = chunked_scan(**roles, state=None, chunk=16)
    constant = ("decay", "skip")
    first, state = chunked_scan(
        **{name: role if name in constant else role[:, :cut] for name, role in roles.items()}, state=None, chunk=16
    )
    second, end = chunked_scan(
        **{name: role if name in constant else role[:, cut:] for name, role in roles.items()}, state=state, chunk=16
    )
    assert furthest(torch.cat([first, second], dim=1), out) < 2e-5
    assert furthest(end, last) < 2e-5


def test_the_future_changes_nothing() -> None:
    first, other = inputs(40), inputs(40, seed=1)
    second = {
        name: role if name in ("decay", "skip") else torch.cat([role[:, :20], other[name][:, 20:]], dim=1)
        for name, role in first.items()
    }
    found = [chunked_scan(**roles, state=None, chunk=64)[0][:, :20] for roles in (first, second)]
    assert torch.equal(*found)


def test_no_time_leaves_the_state_as_it_is() -> None:
    """What a pad behind the last token does: Δ = 0."""
    roles, state = inputs(9), started()
    roles["step"] = 0 * roles["step"]
    assert torch.equal(chunked_scan(**roles, state=state, chunk=4)[1], state)
    assert torch.equal(stepped(roles, state)[1], state)


def test_strong_decay_does_not_overflow() -> None:
    roles = inputs(100)
    out, state = chunked_scan(**{**roles, "decay": roles["decay"] * 1000}, state=None, chunk=64)
    assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(state).all())
