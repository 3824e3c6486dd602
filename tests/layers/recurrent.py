"""What mixers with a recurrent state are asked alike: the reference's gradients, and rows between pads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nexus_universal.layers.call import Call, CallPlan
from tests.helpers import same


def assert_same_gradients(
    theirs: nn.Module, ours: nn.Module, x: Tensor, *, probe: Tensor, renamed: Callable[[str], str]
) -> None:
    """Bit by bit, into the input and into every parameter; `renamed` gives our name of one of theirs."""
    into: list[Any] = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    for model, given in zip((theirs, ours), into, strict=True):
        (model(given) * probe).sum().backward()
    assert same(into[1].grad, into[0].grad)
    found = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        grad = found[renamed(name)].grad
        assert grad is not None and parameter.grad is not None
        assert same(grad, parameter.grad.view(grad.shape)), name


def padded(length: int, left: int, right: int, *, width: int) -> tuple[Tensor, Call]:
    """One row of `length` real positions among pads, and the call that says so."""
    mask = torch.zeros(1, left + length + right, dtype=torch.long)
    mask[:, left : left + length] = 1
    plan = CallPlan()
    plan.recurrent = True
    return mask, plan.begin(torch.zeros(*mask.shape, width), mask=mask)
