"""Feed-forward networks, gated or not."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.layers.activations import ACTIVATIONS, activation
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.support import rounded


class UniversalFeedForward(nn.Module):
    """down(act(gate x) · up x) (GLU, arXiv 2002.05202), or down(act(up x)). Built from its part or from a whole n.

    What it reads may have another width, `d_in`.
    """

    def __init__(self, part: Any, *, d_model: int | None = None, layer_index: int = 0, d_in: int | None = None) -> None:
        super().__init__()
        if not isinstance(part, FeedForward):
            part, d_model = _feed_forward_of(part, layer_index)
        assert d_model is not None
        self.part: FeedForward = part
        self.quantile = None if part.sparsity is None else normal_quantile(part.sparsity)
        rows = {"gate": part.width, "up": part.width} if part.gated else {"up": part.width}
        self.project = InputProjections(
            self, rows, d_in=d_in or d_model, packing=part.packing, biases=part.biases, late_bias=part.late_bias
        )
        self.down = Linear(part.width, d_model, bias="down" in part.biases, late_bias=part.late_bias)
        self.inner_norm = UniversalNorm.of(part.inner_norm, part.width) if part.inner_norm else None
        self.activation = activation(part.activation)

    def forward(self, x: Float[Tensor, "*lead d_hidden"]) -> Float[Tensor, "*lead d_hidden"]:
        out = self._mapped(x)
        return out if self.part.output_scale is None else out * self.part.output_scale

    def _mapped(self, x: Float[Tensor, "*lead d_hidden"]) -> Float[Tensor, "*lead d_hidden"]:
        roles = self.project(x)
        up = roles["up"].flatten(-2) if self.part.packing else roles["up"]
        if not self.part.gated:
            return self._down(self.activation(up))
        gate = roles["gate"].flatten(-2) if self.part.packing else roles["gate"]
        if self.quantile is not None:
            gate = sparsified(gate, self.quantile)
        return self._down(gated_product(self.part, gate, up))

    def _down(self, inner: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead d_hidden"]:
        return self.down(inner if self.inner_norm is None else self.inner_norm(inner))


def normal_quantile(probability: float) -> float:
    """Below it lies this share of a standard normal distribution."""
    with torch.device("cpu"):  # whatever device the model is built on
        return float(torch.distributions.Normal(0, 1).icdf(torch.tensor(probability)))


def sparsified(x: Float[Tensor, "*lead width"], quantile: float) -> Float[Tensor, "*lead width"]:
    """What of x lies above that quantile, were its entries normal; 0 for the rest."""
    mean = torch.mean(x, dim=-1, keepdim=True)
    spread = torch.std(x, dim=-1, keepdim=True, unbiased=False)
    return torch.relu(x - (mean + spread * rounded(quantile, x)))


def gated_product(
    part: FeedForward, gate: Float[Tensor, "*lead width"], up: Float[Tensor, "*lead width"]
) -> Float[Tensor, "*lead width"]:
    """act(gate) · up, the gate scaled, both bounded and `up` shifted where the part says so."""
    if part.gate_scale is not None:
        gate = gate * part.gate_scale
    if part.gate_limit is not None:
        gate, up = gate.clamp(max=part.gate_limit), up.clamp(min=-part.gate_limit, max=part.gate_limit)
    if part.up_shift is not None:
        up = up + part.up_shift
    if part.softcaps:
        linear, bounded = (
            torch.tanh(role.float() / cap) * cap for role, cap in zip((gate, up), part.softcaps, strict=True)
        )
        return (linear * torch.sigmoid(gate.float()) * bounded).to(gate.dtype)
    if part.product == "float32":
        return (ACTIVATIONS[part.activation](gate.float()) * up.float()).to(gate.dtype)
    return ACTIVATIONS[part.activation](gate) * up


def _feed_forward_of(n: Any, layer_index: int) -> tuple[FeedForward, int]:
    """The dense feed-forward of one layer of a whole n (the shared expert's, in a mixture)."""
    for branch in n.layers[layer_index].branches():
        part = branch.part.shared if isinstance(branch.part, MixtureOfExperts) else branch.part
        if isinstance(part, FeedForward):
            return part, n.d_hidden
    raise ValueError(f"layer {layer_index} of this n has no dense feed-forward")
