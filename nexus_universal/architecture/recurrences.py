"""Mixers that pass a state from one position to the next, beside those of `mixers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.mixers import Activation
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class ShortConvolution(Part):
    """C ⊙ conv(B ⊙ x), where B, C and x are projections of the input, and conv a causal one per channel (LFM2).

    `bias` gives one to both projections and to the convolution.
    """

    role: ClassVar[str] = "mixer"

    kernel: int
    bias: bool = False


@part
class ChannelStateSpace(Part):
    """Mamba (arXiv 2312.00752): s ← exp(Δ·A) s + Δ·B x; y = C·s + D x, with A per channel and state.

    x comes out of a causal depthwise convolution and `activation`; δ, B and C are projections of it, and
    Δ = softplus(W δ + b), where δ has `rank` numbers. `inner_norm` norms δ, B and C (FalconMamba without weights, Jamba
    with). The output is y · silu(z). The state is float32. With `heads` x is that many equal slices, each of which
    chooses by matrices of its own (Zamba).
    """

    role: ClassVar[str] = "mixer"

    width: int
    state_dim: int
    rank: int
    convolution: int
    inner_norm: Norm | None = None
    activation: Activation = "silu"
    convolution_bias: bool = True
    biases: tuple[Literal["input", "output"], ...] = ()
    heads: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.heads is not None and self.width % self.heads:
            yield "heads", f"must divide width = {self.width}"
        if self.heads is not None and self.inner_norm is not None:
            yield "inner_norm", "must be None with heads"


@part
class GatedLinearRecurrence(Part):
    """RG-LRU (Griffin, arXiv 2402.19427): h ← a h + √(1 − a²) (σ(W_i x) ⊙ x), a = exp(−8 σ(W_r x) softplus(Λ)).

    x comes out of a causal depthwise convolution; W_i and W_r are one matrix per head. The output is h ⊙
    `activation`(W_y z). All projections have biases, and the state is float32.
    """

    role: ClassVar[str] = "mixer"

    width: int
    heads: int
    convolution: int
    activation: Activation

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.width % self.heads:
            yield "heads", f"must divide width = {self.width}"
