"""Feed-forward networks against their definition, and as part of a whole n."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from nexus_universal import ArchitectureParameter, UniversalFeedForward
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.position import Norm
from nexus_universal.layers.activations import ACTIVATIONS
from tests.helpers import furthest, pair, raw, same


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu_squared"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("biases", [(), ("gate", "up", "down"), ("down",)])
@pytest.mark.parametrize("gated", [True, False])
def test_it_is_its_definition(gated: bool, biases: tuple[Any, ...], packed: bool, activation: Any) -> None:
    roles = ("gate", "up") if gated else ("up",)
    biases = tuple(bias for bias in biases if gated or bias != "gate")
    part = FeedForward(
        width=7, activation=activation, gated=gated, biases=biases, packing=(Packed(roles=roles),) if packed else ()
    )
    torch.manual_seed(0)
    module = UniversalFeedForward(part, d_model=5)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5)

    def linear(role: str) -> torch.Tensor:
        if packed and role != "down":
            layer = module.get_submodule("_".join(roles))
            rows = slice(7 * roles.index(role), 7 * roles.index(role) + 7)
            weight, bias = layer.weight[rows], layer.bias[rows] if layer.bias is not None else None
        else:
            layer = module.get_submodule(role)
            weight, bias = layer.weight, layer.bias
        assert (bias is not None) == (role in biases)
        return (x if role != "down" else hidden) @ weight.T + (0 if bias is None else bias)

    act = ACTIVATIONS[activation]
    hidden = act(linear("gate")) * linear("up") if gated else act(linear("up"))
    assert furthest(module(x), linear("down")) < 1e-5


@pytest.mark.parametrize(("limit", "shift"), [(0.5, None), (None, 1.0), (0.5, 1.0)])
def test_a_bounded_gate_and_a_shifted_up(limit: float | None, shift: float | None) -> None:
    """The gate is bounded from above only, `up` on both sides, and shifted after that."""
    part = FeedForward(width=7, activation="silu", gate_limit=limit, up_shift=shift)
    torch.manual_seed(0)
    module = UniversalFeedForward(part, d_model=5)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = 3 * torch.randn(2, 3, 5)
    gate, up = x @ module.get_submodule("gate").weight.T, x @ module.get_submodule("up").weight.T
    if limit is not None:
        assert bool((gate < -limit).any() and (up < -limit).any() and (gate > limit).any() and (up > limit).any())
        gate, up = torch.where(gate > limit, limit, gate), torch.where(up.abs() > limit, limit * up.sign(), up)
    expected = (nn.functional.silu(gate) * (up + (shift or 0))) @ module.down.weight.T
    assert furthest(module(x), expected) < 1e-5


@pytest.mark.parametrize("gated", [True, False])
def test_a_norm_before_the_last_product(gated: bool) -> None:
    part = FeedForward(width=7, activation="relu", gated=gated, inner_norm=Norm(kind="rms", eps=1e-2))
    torch.manual_seed(0)
    module = UniversalFeedForward(part, d_model=5)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, 3, 5)
    inner = (x @ module.get_submodule("up").weight.T) * (1 if gated else (x @ module.up.weight.T > 0))
    if gated:
        inner = inner * (x @ module.get_submodule("gate").weight.T).relu()
    normed = inner / (inner.square().mean(-1, keepdim=True) + 1e-2).sqrt() * module.inner_norm.weight
    assert furthest(module(x), normed @ module.down.weight.T) < 1e-5


@pytest.mark.parametrize("gated", [True, False])
def test_a_late_bias_is_added_to_the_rounded_product(gated: bool) -> None:
    biases: tuple[Any, ...] = ("gate", "up", "down") if gated else ("up", "down")
    made = []
    for late in (False, True):
        part = FeedForward(width=7, activation="relu", gated=gated, biases=biases, late_bias=late)
        torch.manual_seed(0)
        module = UniversalFeedForward(part, d_model=5).bfloat16()
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        made.append(module)
    x = torch.randn(20, 5).bfloat16()
    early, late = made

    def linear(role: str, value: torch.Tensor) -> torch.Tensor:
        layer = late.get_submodule(role)
        return (value.float() @ layer.weight.float().T).bfloat16() + layer.bias

    hidden = torch.relu(linear("gate", x)) * linear("up", x) if gated else torch.relu(linear("up", x))
    assert torch.equal(late(x), linear("down", hidden))
    assert not torch.equal(late(x), early(x)) and furthest(late(x).float(), early(x).float()) < 0.1


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma3_text", "glm4_moe_lite"])
def test_a_layer_of_n_alone_is_the_models_own(model_type: str) -> None:
    ours = pair(model_type)[1]
    alone = UniversalFeedForward(ours.n, layer_index=0)
    inside = ours.get_submodule("layers.0.feed_forward")
    alone.load_state_dict(inside.state_dict(), assign=True)  # GPT-2's matrices lie transposed, which shows in the bits
    x = torch.randn(1, 3, ours.n.d_hidden)
    with torch.no_grad():
        assert same(alone(x), inside(x))


def test_built_from_a_mixture_it_is_the_shared_expert() -> None:
    n = ArchitectureParameter.from_huggingface(raw("glm4_moe_lite"))
    assert UniversalFeedForward(n, layer_index=1).part.width == 24
    with pytest.raises(ValueError, match="no dense feed-forward"):
        UniversalFeedForward(ArchitectureParameter.from_huggingface(raw("mixtral")))
