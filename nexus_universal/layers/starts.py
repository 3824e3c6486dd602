"""How weights start where not as a normal matrix or a zero vector: each module says it by `start`."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text


@runtime_checkable
class Starts(Protocol):
    """A module some of whose tensors start in a way of their own; all others are set before."""

    def start(self, text: Text, *, depth: int) -> None:
        """Set them in place, in a model of `depth` layers."""
        ...


def start_steps(bias: Float[Tensor, " channels"], text: Text) -> None:
    """The bias whose softplus is log-uniform in `step_range`."""
    if text.step_range:
        low, high, floor = text.step_range
        step = torch.empty_like(bias, dtype=torch.float32).uniform_(math.log(low), math.log(high))
        step = step.exp().clamp_min(floor)
        bias.copy_(step + torch.log(-torch.expm1(-step)))


def start_decays(log: Tensor, skip: Tensor) -> None:
    """A is -1, -2, … head by head or state by state (S4D-real, arXiv 2206.11893), D 1."""
    nn.init.ones_(skip)
    log.copy_(torch.arange(1, log.shape[-1] + 1).log().expand_as(log))


def start_step_weight(weight: Tensor, rank: int, text: Text) -> None:
    """What widens Δ from its low rank, where Δ's range is said."""
    if text.step_range:
        nn.init.uniform_(weight, -(rank**-0.5), rank**-0.5)


def start_ends(convolution: Tensor, output: Tensor, text: Text, *, depth: int) -> None:
    """What a state space reads and writes by, where the text says it: uniform in ±1/√fan-in."""
    if text.uniform_output:
        for weight in (convolution, output):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    if text.shrunk_output:
        nn.init.kaiming_uniform_(output, a=math.sqrt(5)).div_(math.sqrt(depth))
