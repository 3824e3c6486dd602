"""Packed projections: one product, several roles, nothing copied."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.mixers import Packed
from nexus_universal.layers.linear import InputProjections, Linear, PackedLinear
from tests.helpers import pair


@settings(max_examples=60)
@given(
    shares=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    groups=st.integers(1, 4),
    d_in=st.integers(1, 6),
    bias=st.booleans(),
)
def test_each_role_is_what_its_own_rows_give(shares: list[int], groups: int, d_in: int, bias: bool) -> None:
    """Rows lie group by group, each with its share of every role in order."""
    torch.manual_seed(0)
    roles = tuple("abcd"[: len(shares)])
    rows = {role: share * groups for role, share in zip(roles, shares, strict=True)}
    layer = PackedLinear(Packed(roles=roles, groups=groups), rows, d_in=d_in, bias=bias)
    nn.init.normal_(layer.weight)
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, d_in)
    found = layer.split(layer(x))
    block, at = sum(shares), 0
    for role, share in zip(roles, shares, strict=True):
        picked = [group * block + at + row for group in range(groups) for row in range(share)]
        expected = x @ layer.weight[picked].T + (layer.bias[picked] if bias else 0.0)
        assert found[role].shape == (2, 3, groups, share)
        assert torch.allclose(found[role].flatten(-2), expected, atol=1e-5)
        view = layer.role_view(role)
        assert torch.equal(view.reshape(-1, d_in), layer.weight[picked])
        assert view.untyped_storage().data_ptr() == layer.weight.untyped_storage().data_ptr()
        at += share


def test_a_role_view_writes_through() -> None:
    layer = PackedLinear(Packed(roles=("query", "gate"), groups=2), {"query": 4, "gate": 4}, d_in=3, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.role_view("gate").fill_(1.0)
    assert layer.weight[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_groups_must_divide_the_rows() -> None:
    with pytest.raises(InvalidArchitecture, match=r"Packed\.groups = 3 must divide the 8 rows of 'gate'"):
        PackedLinear(Packed(roles=("query", "gate"), groups=3), {"query": 6, "gate": 8}, d_in=3, bias=False)


def test_projections_are_children_of_their_owner() -> None:
    owner = nn.Module()
    rows = {"query": 4, "key": 2, "value": 2, "gate": 4}
    project = InputProjections(
        owner, rows, d_in=3, packing=(Packed(roles=("query", "gate"), groups=2),), biases=("query", "gate", "value")
    )
    shapes = {name: tuple(parameter.shape) for name, parameter in owner.named_parameters()}
    assert shapes == {
        "query_gate.weight": (8, 3),
        "query_gate.bias": (8,),
        "key.weight": (2, 3),
        "value.weight": (2, 3),
        "value.bias": (2,),
    }
    with torch.no_grad():
        for parameter in owner.parameters():
            parameter.normal_()
    out = project(torch.randn(5, 3))
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "query": (5, 2, 2),
        "gate": (5, 2, 2),
        "key": (5, 2),
        "value": (5, 2),
    }


def test_a_fused_projection_is_the_references_own_rows() -> None:
    """GPT-2's c_attn is [q | k | v], stored [in, out]; Qwen3-Next's q_proj is [q0 | g0 | q1 | g1 | …]."""
    theirs, ours = pair("gpt2")
    fused = ours.get_submodule("layers.0.attention.query_key_value")
    stored = theirs.transformer.h[0].attn.c_attn.weight
    for index, role in enumerate(("query", "key", "value")):
        assert torch.equal(fused.role_view(role)[0], stored[:, 48 * index : 48 * (index + 1)].T)
    theirs, ours = pair("qwen3_next")
    gated = ours.get_submodule("layers.3.attention.query_gate")
    stored = theirs.model.layers[3].self_attn.q_proj.weight.view(4, 2, 16, 48)
    assert torch.equal(gated.role_view("query"), stored[:, 0])
    assert torch.equal(gated.role_view("gate"), stored[:, 1])


def test_building_writes_no_weights() -> None:
    """`Linear` leaves memory as it is: nothing is initialised twice."""
    called = []
    original = nn.init.kaiming_uniform_
    nn.init.kaiming_uniform_ = lambda *a, **k: called.append(1)  # type: ignore[assignment]
    try:
        Linear(4, 4)
    finally:
        nn.init.kaiming_uniform_ = original
    assert not called
