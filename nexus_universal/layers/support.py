"""Saying clearly what a module does not compute yet, and keeping what a cast must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.part import Part

M = TypeVar("M", bound="KeepsFloat32")


class KeepsFloat32(nn.Module):
    """A module of whose tensors some stay in float32 when the model is cast or loaded, as the references load them."""

    in_float32: tuple[str, ...] = ()

    def _apply(self: M, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> M:
        kept = {name: getattr(self, name).data for name in self.in_float32}
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            cast = getattr(self, name)
            if cast.dtype != tensor.dtype:
                cast.data = tensor.to(cast.device)
        return self


def kept_in_float32(model: nn.Module) -> Iterator[str]:
    """The names of such tensors."""
    for path, module in model.named_modules():
        if isinstance(module, KeepsFloat32):
            yield from (f"{path}.{name}" for name in module.in_float32)


def rounded(number: float, x: Tensor) -> Tensor:
    """A number in float32, then in the dtype of x; made on its device, whither a recorded step can copy nothing."""
    return torch.full((), number, dtype=torch.float32, device=x.device).to(x.dtype)


def refuse_unless(part: Part, **plain: Any) -> None:
    """Raise for the first field of `part` whose value is not the one named.

    Raises:
        UnsupportedPart: naming the part, the field, its value and the value that is computed.
    """
    for name, value in plain.items():
        found = getattr(part, name)
        if found != value:
            kind = type(part).__name__
            raise UnsupportedPart(f"no module computes {kind}.{name} = {found!r} yet (computed: {value!r})")
