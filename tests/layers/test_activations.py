"""Activations: transformers' own bit for bit, and the mathematics behind them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from transformers.activations import ACT2FN, XIELUActivation

from nexus_universal.architecture.mixers import Activation
from nexus_universal.families.shared import common
from nexus_universal.layers.activations import ACTIVATIONS, activation
from tests.helpers import same

POINTS = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([0.0, 1e-8, -1e-8, 60.0, -60.0])])
EXACT = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "relu": lambda x: x.clamp(min=0),
    "relu_squared": lambda x: x.clamp(min=0) ** 2,
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(2 * x.clamp(max=30)) - 1) / (torch.exp(2 * x.clamp(max=30)) + 1),
    "softplus": lambda x: torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0),
    "gelu_quick": lambda x: x / (1 + torch.exp(-1.702 * x)),
}
TANH_FORM = ("gelu_tanh", "gelu_new", "gelu_fast")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key", common.ACTIVATIONS)
def test_activations_are_the_references_bit_for_bit(key: str, dtype: torch.dtype) -> None:
    x = POINTS.to(dtype)
    assert same(ACTIVATIONS[common.ACTIVATIONS[key]](x), ACT2FN[key](x))


@pytest.mark.parametrize("name", EXACT)
def test_activations_are_their_definition(name: str) -> None:
    expected = EXACT[name](POINTS.double())
    assert torch.allclose(ACTIVATIONS[name](POINTS).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TANH_FORM)
def test_the_tanh_forms_are_one_function(name: str) -> None:
    x = POINTS.double()
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert torch.allclose(ACTIVATIONS[name](POINTS).double(), expected, atol=1e-5)
    assert not torch.allclose(expected, F.gelu(x), atol=1e-5)


def test_the_tanh_forms_have_bits_of_their_own() -> None:
    """Three names in n, because their bits differ."""
    x = POINTS.to(torch.float32)
    outputs = [ACTIVATIONS[name](x) for name in TANH_FORM]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[1], outputs[2])


def test_every_name_of_n_has_a_function() -> None:
    from typing import get_args

    assert set(get_args(Activation)) <= set(ACTIVATIONS)
    assert set(common.ACTIVATIONS.values()) <= set(get_args(Activation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xielu_is_the_references_bit_for_bit(dtype: torch.dtype) -> None:
    """Gradients of what is learned, too; its other two numbers are a checkpoint's."""
    theirs, ours = XIELUActivation(0.7, 0.9, beta=0.4, eps=-0.3, dtype=dtype), activation("xielu").to(dtype)
    names = {"positive": "alpha_p", "negative": "alpha_n", "slope": "beta", "bound": "eps"}
    ours.load_state_dict({mine: theirs.state_dict()[name] for mine, name in names.items()})
    x = POINTS.to(dtype).clamp(-8, 8)
    found, expected = ours(x), theirs(x)
    assert same(found, expected)
    found.sum().backward()
    expected.sum().backward()
    assert same(ours.positive.grad, theirs.alpha_p.grad) and same(ours.negative.grad, theirs.alpha_n.grad)


def test_xielu_is_its_definition() -> None:
    module = activation("xielu").double()
    with torch.no_grad():
        module.positive.fill_(0.3)
        module.negative.fill_(-0.2)
    x = torch.linspace(-6, 6, 101).double()
    a, c = math.log1p(math.exp(0.3)), 0.5 + math.log1p(math.exp(-0.2))
    expected = torch.where(x > 0, a * x**2 + 0.5 * x, c * (torch.expm1(x) - x) + 0.5 * x)
    assert torch.allclose(module(x), expected, atol=1e-5)
