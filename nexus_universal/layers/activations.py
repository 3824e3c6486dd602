"""Activation functions by their name in n."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text

Elementwise = Callable[[Tensor], Tensor]


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU's tanh form in torch's fused kernel (arXiv 1606.08415)."""
    return F.gelu(x, approximate="tanh")


def gelu_new(x: Tensor) -> Tensor:
    """GELU's tanh form written out, as GPT-2's code does: the same function, other bits."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_fast(x: Tensor) -> Tensor:
    """GELU's tanh form with a rounded constant and the cube factored."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


class _GeluDerived(torch.autograd.Function):
    """Megatron's gelu, whose derivative has rounded constants of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return gelu_fast(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        tanh = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        slope = 0.5 * x * ((1 - tanh * tanh) * (0.79788456 + 0.1070322243 * x * x)) + 0.5 * (1 + tanh)
        return slope * grads[0]


def gelu_derived(x: Tensor) -> Tensor:
    """gelu_fast with Megatron's derivative."""
    return _GeluDerived.apply(x)  # type: ignore[no-any-return]


def gelu_quick(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


def relu_squared(x: Tensor) -> Tensor:
    """relu(x)² (arXiv 2109.08668)."""
    return torch.square(F.relu(x))


ACTIVATIONS: dict[str, Elementwise] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_derived": gelu_derived,
    "gelu_quick": gelu_quick,
    "relu": F.relu,
    "relu_squared": relu_squared,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
}


class Xielu(nn.Module):
    """x > 0: a x² + b x, else (e^min(x, ε) - 1 - x) c + b x; a = softplus(α), c = b + softplus(β) (arXiv 2411.13010).

    α and β are learned; b and ε are not, but come with a checkpoint.
    """

    slope: Tensor
    bound: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.empty(1))
        self.negative = nn.Parameter(torch.empty(1))
        self.register_buffer("slope", torch.tensor(0.5))
        self.register_buffer("bound", torch.tensor(-1e-6))

    def start(self, text: Text, *, depth: int) -> None:
        """Slopes of 0.8 and 0.3 on either side, behind a softplus."""
        for parameter, slope in ((self.positive, 0.8), (self.negative, 0.3)):
            nn.init.constant_(parameter, slope).expm1_().log_()
        self.slope.fill_(0.5)
        self.bound.fill_(-1e-6)

    def forward(self, x: Tensor) -> Tensor:
        slope, bound = self.slope.to(x.dtype), self.bound.to(x.dtype)
        a, c = F.softplus(self.positive), slope + F.softplus(self.negative)
        return torch.where(x > 0, a * x * x + slope * x, (torch.expm1(torch.min(x, bound)) - x) * c + slope * x)


def activation(name: str) -> Elementwise:
    """The activation of this name; one that has learned numbers is a module of its own."""
    return Xielu() if name == "xielu" else ACTIVATIONS[name]
