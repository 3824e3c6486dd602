"""Causal depthwise convolution over the sequence, with the last inputs as its state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from nexus_universal.cache import State
from nexus_universal.cache.states import last
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.call import Call
from nexus_universal.layers.support import KeepsFloat32


class CausalConvolution(KeepsFloat32):
    """Each channel convolved over itself and its `kernel` - 1 predecessors, then an activation, if any.

    `cut` takes as many results as the call has positions, even where there are no more. A weight that stays `wide` is
    float32 in any model. `parts` are the channels of what is convolved together, which files may hold apart.
    """

    def __init__(
        self,
        channels: int,
        kernel: int,
        *,
        bias: bool = False,
        activation: str | None = None,
        cut: bool = False,
        wide: bool = False,
        parts: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.parts = parts
        self.kernel, self.cut = kernel, cut
        self.in_float32 = ("weight",) if wide else ()
        self.weight = nn.Parameter(torch.empty(channels, kernel))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.activation = ACTIVATIONS[activation] if activation else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch channels seq"],
        state: State | None = None,
        *,
        trailing: Bool[Tensor, "batch seq"] | None = None,
        field: str = "convolution",
    ) -> Float[Tensor, "batch channels seq"]:
        """Convolve; a `field` of the state gives what came before and takes what comes next will need."""
        seq = x.shape[-1]
        before = getattr(state, field) if state is not None else None
        # The activation sees what the reference's sees, no less: on CPU its bits depend on where the vector tail falls.
        if before is not None and seq == 1:
            x = torch.cat([before, x], dim=-1)
            out = self.activation(self.single(x)).to(x.dtype)
        else:
            if before is not None:
                x = torch.cat([before, x], dim=-1)
            elif state is not None:
                x = F.pad(x, (max(self.kernel - seq, 0), 0))
            out = self.activation(self._convolve(x, padding=self.kernel - 1)[..., : x.shape[-1]]).to(x.dtype)
            out = out if state is None and not self.cut else out[..., -seq:]
        if state is not None:
            setattr(state, field, last_inputs(x, self.kernel, trailing))
        return out

    def single(self, x: Float[Tensor, "batch channels seen"]) -> Float[Tensor, "batch channels one"]:
        """The last position's result."""
        return self._convolve(x, padding=0)[..., -1:]

    def _convolve(self, x: Tensor, *, padding: int) -> Tensor:
        weight = self.weight.unsqueeze(1)
        return F.conv1d(x.to(weight.dtype), weight, self.bias, padding=padding, groups=weight.shape[0])


def last_inputs(
    x: Num[Tensor, "batch channels seq"], count: int, trailing: Bool[Tensor, "batch new"] | None
) -> Num[Tensor, "batch channels kept"]:
    """The last `count` inputs of every row, zeros before its first; pads behind the last token do not count."""
    x = F.pad(x, (max(count - x.shape[-1], 0), 0))
    if trailing is None:
        return last(x, count, dim=-1)
    ends = x.shape[-1] - trailing.sum(-1)
    index = ends[:, None] - count + torch.arange(count, device=x.device)
    picked = x.gather(-1, index.clamp_min(0)[:, None, :].expand(-1, x.shape[1], -1))
    return picked.masked_fill((index < 0)[:, None, :], 0.0)


def without_pads(x: Float[Tensor, "batch seq width"], call: Call) -> Float[Tensor, "batch seq width"]:
    """Zeros where a call has pads."""
    return x if call.padding is None else (x * call.padding[:, :, None]).to(x.dtype)
