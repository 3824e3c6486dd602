"""Routers against the references' own, experts against a loop over all of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.glm4_moe_lite.modeling_glm4_moe_lite import Glm4MoeLiteMoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.phimoe.modeling_phimoe import sparsemixer
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextSparseMoeBlock

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.feed_forward import ExpertGroups, FeedForward, MixtureOfExperts, Router
from nexus_universal.layers.experts import Experts, UniversalExperts, UniversalRouter, grouped_linear
from nexus_universal.layers.support import kept_in_float32
from tests.helpers import config, furthest, ids, reference, same, universal, widen

BLOCKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mixtral": (MixtralSparseMoeBlock, {}),
    "qwen3_moe": (Qwen3MoeSparseMoeBlock, {}),
    "qwen3_moe-plain": (Qwen3MoeSparseMoeBlock, {"norm_topk_prob": False}),
    "qwen3_next": (Qwen3NextSparseMoeBlock, {}),
    "glm4_moe_lite": (Glm4MoeLiteMoE, {}),
    "glm4_moe_lite-groups": (Glm4MoeLiteMoE, {"n_routed_experts": 12, "n_group": 4, "topk_group": 2}),
    "glm4_moe_lite-plain": (Glm4MoeLiteMoE, {"norm_topk_prob": False, "routed_scaling_factor": 2.5}),
}


def both(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, UniversalExperts]:
    """The reference's sparse block and ours, with the same wide weights."""
    model_type = name.partition("-")[0]
    block, changes = BLOCKS[name]
    settled = config(model_type, **changes)
    settled._experts_implementation = "grouped_mm"
    theirs = widen(block(settled), seed=3).eval().to(dtype)
    n = ArchitectureParameter.from_huggingface(settled)
    part = next(b.part for layer in n.layers for b in layer.branches() if isinstance(b.part, MixtureOfExperts))
    ours = UniversalExperts(part, d_model=n.d_hidden).to(dtype)
    state = theirs.state_dict()
    names = {
        "router.weight": "gate.weight",
        "router.selection_bias": "gate.e_score_correction_bias",
        "experts.gate_up": "experts.gate_up_proj",
        "experts.down": "experts.down_proj",
        "shared_gate.weight": "shared_expert_gate.weight",
    }
    for role in ("gate", "up", "down"):
        shared = "shared_experts" if model_type.startswith("glm") else "shared_expert"
        names[f"shared.{role}.weight"] = f"{shared}.{role}_proj.weight"
    with torch.no_grad():
        for mine, tensor in ours.state_dict(keep_vars=True).items():
            tensor.copy_(state[names[mine]])
    if "glm" in name:
        theirs.gate.e_score_correction_bias = state["gate.e_score_correction_bias"].float()
    return theirs, ours


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BLOCKS)
def test_a_mixture_is_the_references_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    theirs, ours = both(name, dtype)
    with torch.no_grad():
        expected = theirs(inputs(dtype))
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert same(ours(inputs(dtype)), expected)


def routed(part: Router, scores: Tensor, bias: Tensor, k: int) -> list[dict[int, float]]:
    """The router's definition for one token after the other, from its scores."""
    found = []
    for row in scores.double():
        choice = row + bias.double() if part.selection_bias else row
        allowed = set(range(len(row)))
        if part.groups:
            size = len(row) // part.groups.count
            best_two = [sum(sorted(choice[g * size : (g + 1) * size].tolist())[-2:]) for g in range(part.groups.count)]
            kept = sorted(range(part.groups.count), key=lambda g: -best_two[g])[: part.groups.keep]
            allowed = {g * size + i for g in kept for i in range(size)}
        chosen = sorted(allowed, key=lambda e: -float(choice[e]))[:k]
        weights = {e: float(row[e]) for e in chosen}
        if part.normalise:
            total = max(sum(weights.values()) + part.sum_epsilon, part.sum_floor)
            weights = {e: w / total for e, w in weights.items()}
        found.append({e: w * (part.scale or 1.0) for e, w in weights.items()})
    return found


@settings(max_examples=60)
@given(
    score=st.sampled_from(["softmax", "sigmoid"]),
    normalise=st.booleans(),
    biased=st.booleans(),
    grouped=st.booleans(),
    scale=st.sampled_from([None, 1.8]),
    k=st.integers(1, 4),
    logits=st.sampled_from(["model", "float32"]),
    floor=st.sampled_from([0.0, 0.6]),
    seed=st.integers(0, 99),
)
def test_a_router_is_its_definition(
    score: Any,
    normalise: bool,
    biased: bool,
    grouped: bool,
    scale: float | None,
    k: int,
    logits: Any,
    floor: float,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    part = Router(
        score=score,
        normalise=normalise,
        selection_bias=biased,
        groups=ExpertGroups(count=3, keep=2) if grouped and biased else None,
        sum_floor=floor if normalise else 0.0,
        scale=scale,
        logits=logits,
    )
    router = UniversalRouter(part, d_model=5, experts=9, per_token=k)
    nn.init.normal_(router.weight)
    bias = torch.randn(9)
    if biased:
        router.selection_bias.copy_(bias)
    x = torch.randn(11, 5)
    with torch.no_grad():
        weights, chosen = router(x)
        raw = x.double() @ router.weight.double().T
    scores = raw.softmax(-1) if score == "softmax" else raw.sigmoid()
    for row, expected in enumerate(routed(part, scores, bias, k)):
        assert set(chosen[row].tolist()) == set(expected)
        for expert, weight in zip(chosen[row].tolist(), weights[row].tolist(), strict=True):
            assert weight == pytest.approx(expected[expert], rel=1e-4)


@pytest.mark.parametrize("order", ["sorted", "unsorted"])
def test_ties_and_order_are_topks_own(order: Any) -> None:
    """Equal scores: which experts win, and in which order, is what torch.topk says with the same flag."""
    part = Router(score="softmax", normalise=False, order=order)
    router = UniversalRouter(part, d_model=4, experts=8, per_token=3)
    with torch.no_grad():
        router.weight.zero_()
        _, chosen = router(torch.randn(6, 4))
    expected = torch.topk(torch.full((6, 8), 1 / 8), 3, dim=-1, sorted=order == "sorted")[1]
    assert torch.equal(chosen, expected)


def built(experts: int, width: int, d_model: int) -> Experts:
    layer = Experts(FeedForward(width=width, activation="silu"), d_model=d_model, experts=experts)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


@settings(max_examples=40)
@given(
    experts=st.integers(1, 6),
    tokens=st.integers(1, 12),
    width=st.sampled_from([4, 8, 5, 6]),
    d_model=st.sampled_from([4, 12, 7]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    data=st.data(),
)
def test_experts_are_a_loop_over_all_of_them(
    experts: int, tokens: int, width: int, d_model: int, dtype: torch.dtype, data: st.DataObject
) -> None:
    """Idle experts, experts that all tokens visit, and rows that the grouped kernel cannot align are all drawn."""
    torch.manual_seed(0)
    k = data.draw(st.integers(1, experts))
    layer = built(experts, width, d_model).to(dtype)
    rows = [data.draw(st.permutations(range(experts))) for _ in range(tokens)]
    chosen = torch.tensor([row[:k] for row in rows])
    weights, x = torch.rand(tokens, k, dtype=dtype), torch.randn(tokens, d_model, dtype=dtype)
    expected = torch.zeros_like(x)
    for token in range(tokens):
        for slot in range(k):
            expert = int(chosen[token, slot])
            gate, up = (layer.gate_up[expert] @ x[token]).chunk(2)
            expected[token] += weights[token, slot] * (layer.down[expert] @ (F.silu(gate) * up))
    found = layer(x, weights, chosen)
    assert found.dtype == dtype
    assert furthest(found, expected) < 1e-4


def test_grouped_products_give_gradients_like_a_loop() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 8), torch.randn(3, 12, 8)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    grads = []
    for form in ("grouped", "loop"):
        a, b = x.clone().requires_grad_(), weight.clone().requires_grad_()
        if form == "grouped":
            out = grouped_linear(a, b, ends)
        else:
            out = torch.cat([a[:2] @ b[0].T, a[2:2] @ b[1].T, a[2:] @ b[2].T])
        (out * torch.arange(84.0).view(7, 12)).sum().backward()
        grads.append((a.grad, b.grad))
    assert torch.allclose(grads[0][0], grads[1][0], rtol=1e-4)
    assert torch.allclose(grads[0][1], grads[1][1], rtol=1e-4)


@pytest.mark.parametrize("cast", ["to", "bfloat16", "half", "double"])
def test_a_cast_leaves_the_selection_bias_in_float32(cast: str) -> None:
    _, ours = both("glm4_moe_lite")
    before = ours.router.selection_bias.clone()
    ours = ours.to(torch.bfloat16) if cast == "to" else getattr(ours, cast)()
    assert same(ours.router.selection_bias, before)
    assert ours.router.weight.dtype != torch.float32
    assert "router.selection_bias" in ours.state_dict()


@pytest.mark.parametrize("stored", ["model", "float32"])
def test_a_cast_leaves_a_router_that_is_stored_in_float32(stored: Any) -> None:
    part = Router(score="softmax", normalise=True, logits="float32", stored=stored)
    router = UniversalRouter(part, d_model=6, experts=5, per_token=2)
    nn.init.normal_(router.weight)
    before = router.weight.detach().clone()
    cast = router.to(torch.bfloat16)
    assert cast.weight.dtype == (torch.float32 if stored == "float32" else torch.bfloat16)
    assert same(cast.weight.data, before) == (stored == "float32")
    assert isinstance(cast.weight, nn.Parameter) and cast.weight.requires_grad
    assert [name for name, _ in cast.named_parameters()] == ["weight"]
    assert list(kept_in_float32(nn.ModuleDict({"r": cast}))) == (["r.weight"] if stored == "float32" else [])


def test_the_bias_chooses_but_does_not_weigh() -> None:
    _, ours = both("glm4_moe_lite")
    x = inputs().reshape(-1, 48)
    with torch.no_grad():
        ours.router.selection_bias.zero_()
        ours.router.selection_bias[5] = 100.0
        weights, chosen = ours.router(x)
    assert bool((chosen == 5).any(-1).all())
    assert float(weights.max()) <= 1.8


def test_experts_of_any_width_are_computed_where_the_references_kernel_fails() -> None:
    """A width whose rows are no whole 16 bytes: the reference's grouped product refuses it, ours loops."""
    theirs = reference("qwen3_moe", moe_intermediate_size=6)
    ours = universal(theirs)
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
            theirs(ids(1, 5), use_cache=False)
        theirs.config._experts_implementation = "eager"
        for layer in theirs.model.layers:
            layer.mlp.experts.config._experts_implementation = "eager"
        expected = theirs(ids(1, 5), use_cache=False).logits
        assert furthest(ours(ids(1, 5)).logits, expected) < 1e-5


def test_a_sparse_mixer_is_the_references() -> None:
    """One expert after the other, each with its share among those left that are near the best."""
    part = Router(score="sparse_mixer", normalise=False, tolerance=0.4, weights="model")
    router = UniversalRouter(part, d_model=5, experts=6, per_token=2)
    nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    weights, chosen = router(x)
    expected, experts = sparsemixer(F.linear(x, router.weight), jitter_eps=0.2, training=False)
    assert torch.equal(chosen, experts) and same(weights, expected)
    assert 0.2 < float((weights < 1).float().mean()) < 0.8  # some have others near, some have none
    probe = torch.randn(64, 2, generator=torch.Generator().manual_seed(2))
    mine, theirs = (torch.autograd.grad((out * probe).sum(), x, retain_graph=True)[0] for out in (weights, expected))
    assert same(mine, theirs)
