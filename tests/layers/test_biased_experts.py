"""Experts with biases, interleaved rows and a clamped gate; routers with a bias that weigh the chosen only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.checkpoint.load import put
from nexus_universal.layers.experts import Experts, UniversalExperts, UniversalRouter
from tests.helpers import config, furthest, same, widen

INTERLEAVED = (Packed(roles=("gate", "up"), groups=8),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("limit", [7.0, 0.4])
def test_the_reference_bit_for_bit(limit: float, dtype: torch.dtype) -> None:
    settled = config("gpt_oss", swiglu_limit=limit)
    settled._experts_implementation = "grouped_mm"
    theirs = widen(GptOssMLP(settled), seed=3).eval().to(dtype)
    n = ArchitectureParameter.from_huggingface(settled)
    part = next(b.part for b in n.layers[0].branches() if isinstance(b.part, MixtureOfExperts))
    ours = UniversalExperts(part, d_model=n.d_hidden)
    state = dict(theirs.named_parameters())
    for role in ("gate_up", "down"):
        put(ours, f"experts.{role}", state[f"experts.{role}_proj"].detach().mT)
        put(ours, f"experts.{role}_bias", state[f"experts.{role}_proj_bias"].detach())
    for name in ("weight", "bias"):
        put(ours, f"router.{name}", state[f"router.{name}"].detach())
    x = torch.randn(2, 17, n.d_hidden, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        assert same(ours(x), theirs(x)[0])


def expert(layer: Experts, e: int, x: Tensor, *, interleaved: bool) -> Tensor:
    """One expert's definition."""
    part = layer.part
    joint = layer.gate_up[e] @ x + (0 if layer.gate_up_bias is None else layer.gate_up_bias[e])
    gate, up = (joint[0::2], joint[1::2]) if interleaved else joint.chunk(2)
    if part.gate_limit is not None:
        gate, up = gate.clamp(max=part.gate_limit), up.clamp(-part.gate_limit, part.gate_limit)
    inner = nn.functional.silu(gate) * (up + (part.up_shift or 0))
    return layer.down[e] @ inner + (0 if layer.down_bias is None else layer.down_bias[e])


@settings(max_examples=40)
@given(
    biases=st.sampled_from([(), ("gate", "up"), ("down",), ("gate", "up", "down")]),
    packing=st.sampled_from([(), INTERLEAVED]),
    limit=st.sampled_from([None, 0.5]),
    shift=st.sampled_from([None, 1.0]),
)
def test_they_are_a_loop_over_all_of_them(
    biases: tuple[Any, ...], packing: tuple[Packed, ...], limit: float | None, shift: float | None
) -> None:
    part = FeedForward(width=8, activation="silu", biases=biases, packing=packing, gate_limit=limit, up_shift=shift)
    layer = Experts(part, d_model=4, experts=3).requires_grad_(False)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    chosen = torch.tensor([[0, 2], [2, 1], [1, 0], [2, 0], [2, 1]])
    weights, x = torch.rand(5, 2), torch.randn(5, 4)
    expected = torch.stack(
        [
            sum(weights[t, k] * expert(layer, int(chosen[t, k]), x[t], interleaved=bool(packing)) for k in range(2))
            for t in range(5)
        ]
    )
    assert furthest(layer(x, weights, chosen), expected) < 1e-5


@settings(max_examples=30)
@given(
    bias=st.booleans(),
    k=st.integers(1, 5),
    scale=st.sampled_from([None, 1.7]),
    weights=st.sampled_from(["model", "float32"]),
)
def test_a_router_that_weighs_the_chosen_only(bias: bool, k: int, scale: float | None, weights: Any) -> None:
    part = Router(score="softmax_chosen", normalise=False, bias=bias, scale=scale, weights=weights)
    router = UniversalRouter(part, d_model=5, experts=6, per_token=k)
    torch.manual_seed(k)
    for parameter in router.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(9, 5)
    with torch.no_grad():
        found, chosen = router(x)
        logits = x @ router.weight.T + (router.bias if bias else 0)
    assert (router.bias is not None) == bias
    for row, best, given_weights in zip(logits, chosen, found, strict=True):
        assert best.tolist() == row.argsort(descending=True)[:k].tolist()
        assert torch.allclose(given_weights, row[best].softmax(-1) * (scale or 1.0), atol=1e-6)


@pytest.mark.parametrize("weights", ["model", "float32"])
def test_the_chosen_are_weighed_in_the_dtype_that_the_part_says(weights: Any) -> None:
    part = Router(score="softmax_chosen", normalise=False, weights=weights)
    router = UniversalRouter(part, d_model=5, experts=6, per_token=3).bfloat16()
    torch.manual_seed(0)
    nn.init.normal_(router.weight)
    x = torch.randn(9, 5).bfloat16()
    with torch.no_grad():
        found, chosen = router(x)
        logits = (x @ router.weight.T).gather(1, chosen)
    expected = logits.float().softmax(-1)
    assert same(found, expected if weights == "float32" else expected.bfloat16())


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_a_routers_bias_moves_scores_and_choice(score: Any) -> None:
    router = UniversalRouter(Router(score=score, normalise=False, bias=True), d_model=5, experts=6, per_token=2)
    torch.manual_seed(0)
    nn.init.normal_(router.weight)
    assert router.bias is not None
    nn.init.normal_(router.bias)
    x = torch.randn(9, 5)
    with torch.no_grad():
        logits = x @ router.weight.T + router.bias
        scores = logits.softmax(-1) if score == "softmax" else logits.sigmoid()
        assert torch.allclose(router(x)[0], scores.topk(2, dim=-1)[0], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"packing": (Packed(roles=("gate", "up")),)}, "expert.packing"),
        ({"packing": (Packed(roles=("gate",), groups=8),)}, "expert.packing"),
        ({"packing": (Packed(roles=("gate", "up"), groups=3),)}, "expert.packing"),
        ({"biases": ("gate",)}, "expert.biases"),
        ({"biases": ("gate", "up"), "late_bias": True}, "expert.late_bias"),
    ],
)
def test_what_a_stack_cannot_hold_is_named(changes: dict[str, Any], named: str) -> None:
    router = Router(score="softmax", normalise=True)

    def problems(**fields: Any) -> list[str]:
        one = FeedForward(width=8, activation="silu", **fields)
        return [field for field, _ in MixtureOfExperts(experts=3, per_token=1, expert=one, router=router).problems()]

    assert named in problems(**changes)
    assert not problems(packing=INTERLEAVED, biases=("gate", "up", "down"))
