"""torch.compile takes every family whole (fullgraph) and computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import MODEL_TYPES, furthest, ids, pair, reference, same, single_changes, universal

SCALINGS = [
    value for key, value in single_changes("llama") if key == "rope_parameters" and value["rope_type"] != "dynamic"
]

RUN_BY_RUN = ("dbrx",)
"""Types whose activations are taken expert by expert, which no graph can do: a run's last numbers have other bits."""


def compiled(model: Any, backend: str = "eager") -> Any:
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend=backend)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("padded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_family_is_one_graph_with_the_same_bits(model_type: str, padded: bool) -> None:
    ours = pair(model_type)[1]
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :3] = 0
    arguments = {"attention_mask": mask} if padded else {}
    with torch.no_grad():
        found = compiled(ours)(ids(2, 20), **arguments).logits
        real, expected = found[mask.bool()], ours(ids(2, 20), **arguments).logits[mask.bool()]
        assert furthest(real, expected) < 1e-5 if model_type in RUN_BY_RUN else same(real, expected)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_cached_call_is_one_graph(model_type: str) -> None:
    """The cache is extended by the compiled call as by the plain one."""
    ours = pair(model_type)[1]
    graph = compiled(ours)
    logits: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for name, model in (("plain", ours), ("compiled", graph)):
            cache = ours.new_cache()
            logits[name] = [model(piece, cache=cache).logits for piece in ids(1, 22).split([20, 1, 1], dim=1)]
            assert cache.length == 22
    for plain, found in zip(logits["plain"], logits["compiled"], strict=True):
        assert furthest(found, plain) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: f"{s['rope_type']}-{len(s)}")
def test_every_scaling_but_the_dynamic_one_is_one_graph(scaling: Any) -> None:
    ours = universal(reference("llama", rope_parameters=scaling, num_hidden_layers=1))
    graph = compiled(ours)
    with torch.no_grad():
        for length in (12, 70):  # on both sides of the original context
            assert same(graph(ids(1, length)).logits, ours(ids(1, length)).logits)


@pytest.mark.parametrize("model_type", ["qwen3_moe", pytest.param("glm4_moe_lite", marks=pytest.mark.slow)])
def test_gradients_flow_through_compiled_experts(model_type: str) -> None:
    grads = []
    for backend in (None, "aot_eager"):
        ours = universal(reference(model_type, num_hidden_layers=2))
        model = ours if backend is None else compiled(ours, backend)
        model(ids(2, 12)).logits.square().mean().backward()
        grads.append({name: parameter.grad for name, parameter in ours.named_parameters()})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        assert grad is not None and grads[1][name] is not None and furthest(grads[1][name], grad) < 1e-3, name


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_moe", "mamba2", "deepseek_v3"])
def test_inductor_computes_the_same(model_type: str) -> None:
    ours = pair(model_type)[1]
    with torch.no_grad():
        found = compiled(ours, "inductor")(ids(2, 20)).logits
        assert furthest(found, ours(ids(2, 20)).logits) < 1e-4
