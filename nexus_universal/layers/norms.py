"""Norms: each rounding order of the references is a class of its own, because each has other bits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.support import refuse_unless


class UniversalNorm(nn.Module):
    """Base: holds weight and bias as the part says. `UniversalNorm.of(part, width)` picks the class."""

    native = False
    """Whether torch's own kernel may compute what is written out here: faster, and not the same bits."""

    def __init__(self, part: Norm, width: int | tuple[int, int]) -> None:
        super().__init__()
        self.part = part
        self.eps = part.eps
        self.weight = nn.Parameter(torch.empty(width)) if part.scale != "none" else None
        self.bias = nn.Parameter(torch.empty(width)) if part.bias else None

    def start(self, text: Text, *, depth: int) -> None:
        """The identity."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 0.0 if self.part.scale == "one_plus_weight" else 1.0)

    @staticmethod
    def of(part: Norm, width: int) -> UniversalNorm:
        """The norm that computes `part` over the last `width` dimensions.

        Raises:
            UnsupportedPart: a valid norm that no class computes.
        """
        if part.rounding == "native_float32":
            return WideLayerNorm(part, width)
        if part.kind == "layer":
            return (NativeLayerNorm if part.rounding == "native" else LayerNorm)(part, width)
        refuse_unless(part, bias=False)
        if part.gate_rank is not None:
            return GatedByItself(part, width, rank=part.gate_rank)
        if part.rounding == "native":
            return NativeRMSNorm(part, width)
        return RMSNorm(part, width) if part.rounding == "before_scale" else LateRoundedRMSNorm(part, width)

    def gain(self) -> Float[Tensor, " width"] | float:
        """What the normed vector is multiplied by, in float32."""
        if self.weight is None:
            return 1.0
        return 1.0 + self.weight.float() if self.part.scale == "one_plus_weight" else self.weight.float()


def reciprocal_rms(part: Norm, wide: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead one"]:
    """(mean of squares + eps)^-1/2; the two ways to take the root have other gradients."""
    square = wide.pow(2).mean(-1, keepdim=True) + part.eps
    return torch.pow(square, -0.5) if part.root == "power" else torch.rsqrt(square)


def _rms_then_weight(norm: UniversalNorm, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
    wide = x.to(torch.float32)
    normed = (wide * reciprocal_rms(norm.part, wide)).to(x.dtype)
    if norm.weight is None:
        return normed
    return (1.0 + norm.weight if norm.part.scale == "one_plus_weight" else norm.weight) * normed


def bare_rms(x: Float[Tensor, "*lead width"], eps: float) -> Float[Tensor, "*lead width"]:
    """x / rms(x), the reciprocal rounded to x's dtype before it is multiplied (DeepSeek-V4)."""
    return x * reciprocal(x, eps)


def reciprocal(x: Float[Tensor, "*lead width"], eps: float) -> Float[Tensor, "*lead one"]:
    """1 / rms(x), rounded to x's dtype."""
    return torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps).to(x.dtype)


class RMSNorm(UniversalNorm):
    """w · (x / rms(x)), statistics in float32, rounded to the input's dtype before the weight (LLaMA's order)."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        if self.native:
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return _rms_then_weight(self, x)


class GatedByItself(RMSNorm):
    """y · σ(B silu(A y)) of an RMSNorm's y, A and B of a small rank, the product in float32 (A.X K2)."""

    def __init__(self, part: Norm, width: int, *, rank: int) -> None:
        super().__init__(part, width)
        self.gate_down, self.gate_up = Linear(width, rank, bias=False), Linear(rank, width, bias=False)

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        y = super().forward(x)
        return (y * torch.sigmoid(self.gate_up(F.silu(self.gate_down(y))).float())).to(y.dtype)


class LateRoundedRMSNorm(UniversalNorm):
    """(x / rms(x)) · w in float32, rounded at the end (Gemma's order)."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        wide = x.float()
        normed = wide * reciprocal_rms(self.part, wide)
        return (normed if self.weight is None else normed * self.gain()).type_as(x)


class LayerNorm(UniversalNorm):
    """LayerNorm written out in float32 (Cohere), rounded at the end."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        wide = x.to(torch.float32)
        mean = wide.mean(-1, keepdim=True)
        variance = (wide - mean).pow(2).mean(-1, keepdim=True)
        normed = (wide - mean) * torch.rsqrt(variance + self.eps)
        if self.part.rounding == "before_scale":
            normed = normed.to(x.dtype)
        out = self.gain() * normed
        return (out if self.bias is None else out + self.bias).to(x.dtype)


class NativeLayerNorm(UniversalNorm):
    """torch's own LayerNorm kernel."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        weight = self.weight
        if weight is not None and self.part.scale == "one_plus_weight":
            weight = weight + 1.0
        return F.layer_norm(x, x.shape[-1:], weight, self.bias, self.eps)


class SlicedNorm(UniversalNorm):
    """Each of `slices` equal slices of the width by itself, times its part of the weight, rounded at the end."""

    def __init__(self, part: Norm, width: int, *, slices: int) -> None:
        refuse_unless(part, kind="rms", rounding="after_scale", bias=False)
        super().__init__(part, width)
        self.slices = slices

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        wide = x.float().unflatten(-1, (self.slices, -1))
        normed = (wide * reciprocal_rms(self.part, wide)).flatten(-2)
        return (normed if self.weight is None else normed * self.gain()).type_as(x)


class HeadNorms(LayerNorm):
    """A LayerNorm whose weights [heads, width] each head has of its own, written out in float32 (Cohere)."""

    @staticmethod
    def of_heads(part: Norm, shape: tuple[int, int]) -> HeadNorms:
        """The norms of so many heads of such a width, position by position; torch's kernel takes head by head."""
        refuse_unless(part, kind="layer", scale="weight", bias=False)
        return (NativeHeadNorms if part.rounding == "native" else HeadNorms)(part, shape)


class NativeHeadNorms(HeadNorms):
    """One call of torch's own LayerNorm kernel for each head (StableLM)."""

    def forward(self, x: Float[Tensor, "batch heads seq width"]) -> Float[Tensor, "batch heads seq width"]:
        assert self.weight is not None
        heads = zip(x.split(1, dim=1), self.weight, strict=True)
        return torch.cat([F.layer_norm(head, head.shape[-1:], weight, None, self.eps) for head, weight in heads], dim=1)


class WideLayerNorm(UniversalNorm):
    """torch's own LayerNorm kernel in float32, rounded at the end; without weights (OLMo)."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


class NativeRMSNorm(UniversalNorm):
    """torch's own RMSNorm kernel."""

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)


class GatedNorm(UniversalNorm):
    """norm(x) · act(gate), the product in float32 (the output norm of linear attention)."""

    def __init__(self, part: Norm, width: int, *, activation: str) -> None:
        refuse_unless(part, kind="rms", rounding="before_scale", bias=False, gate_rank=None)
        super().__init__(part, width)
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Float[Tensor, "*lead width"], gate: Float[Tensor, "*lead width"]
    ) -> Float[Tensor, "*lead width"]:
        return (_rms_then_weight(self, x) * self.activation(gate.to(torch.float32))).to(x.dtype)


class LateRoundedGatedNorm(UniversalNorm):
    """norm(x) · act(gate) in float32, the weight as well, rounded at the end (Kimi Linear)."""

    def __init__(self, part: Norm, width: int, *, activation: str) -> None:
        refuse_unless(part, kind="rms", rounding="after_scale", bias=False)
        super().__init__(part, width)
        self.activation = ACTIVATIONS[activation]

    def forward(
        self, x: Float[Tensor, "*lead width"], gate: Float[Tensor, "*lead width"]
    ) -> Float[Tensor, "*lead width"]:
        wide = x.to(torch.float32)
        normed = self.gain() * (wide * reciprocal_rms(self.part, wide))
        return (normed * self.activation(gate.to(torch.float32))).to(x.dtype)


class SlicedGatedNorm(UniversalNorm):
    """norm(x · silu(gate)) over `slices` equal slices of the width, or norm(x) · silu(gate), in float32 (Mamba-2)."""

    def __init__(self, part: Norm, width: int, *, slices: int = 1, norm_first: bool = False) -> None:
        refuse_unless(part, kind="rms", scale="weight", bias=False, gate_rank=None)
        if norm_first or part.rounding != "before_scale":
            refuse_unless(part, rounding="after_scale")
        refuse_unless(part, root="rsqrt")
        super().__init__(part, width)
        self.slices = slices
        self.norm_first = norm_first

    def forward(
        self, x: Float[Tensor, "*lead width"], gate: Float[Tensor, "*lead width"]
    ) -> Float[Tensor, "*lead width"]:
        wide, opened = x.to(torch.float32), F.silu(gate.to(torch.float32))
        if not self.norm_first:
            wide = wide * opened
        wide = wide.unflatten(-1, (self.slices, -1))
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        assert self.weight is not None
        if self.part.rounding == "before_scale":
            return self.weight * normed.flatten(-2).to(x.dtype)
        out = (self.weight.unflatten(0, (self.slices, -1)) * normed).flatten(-2)
        return (out * opened if self.norm_first else out).to(x.dtype)


def residual_norms(n: ArchitectureParameter) -> Iterator[Norm | None]:
    """The norms that read the residual as it is: the last one, and those of sums."""
    yield n.final_norm
    yield from (write.norm for layer in n.layers for step in layer.steps for write in step.writes)
