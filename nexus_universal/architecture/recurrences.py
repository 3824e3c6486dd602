"""Mixers that pass a state from one position to the next, however many came before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.mixers import Activation, Packed, packing_problems
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class GatedDeltaRule(Part):
    """Gated delta rule (arXiv 2412.06464), or Kimi delta attention where the decay is per key channel (2510.26692).

    S ← exp(g)·S;  S ← S + k (β (v − kᵀS))ᵀ;  o = Sᵀ q · key_dim^-0.5, with g = −exp(A)·softplus(a + bias), q and k
    L2-normed, after a causal depthwise convolution over [q|k|v]; the output is normed per head and gated. `cut` takes
    as many convolved positions as the call has, even where there are no more: a copy that gradients' bits show.

    Per channel, `low_rank` makes W of a and of the gate a product of two thin matrices, and a `decay_floor` f makes
    g = f · σ(exp(A) (a + bias)). `decay_form` "written" takes softplus term by term and leaves g in float32, "fused"
    takes torch's, head by head, and rounds g to the model's dtype. A, the bias and the convolution may be `stored` in
    float32 in any model.
    """

    role: ClassVar[str] = "mixer"
    projections: ClassVar[tuple[str, ...]] = ("query", "key", "value", "gate", "beta", "decay")

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    convolution: int
    norm: Norm
    activation: Activation = "silu"
    gate_activation: Literal["silu", "sigmoid"] = "silu"
    decay: Literal["head", "channel"] = "head"
    low_rank: int | None = None
    beta_range: float = 1.0
    chunk: int = 64
    packing: tuple[Packed, ...] = ()
    cut: bool = False
    decay_floor: float | None = None
    decay_form: Literal["fused", "written"] = "fused"
    stored: Literal["model", "float32"] = "model"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.value_heads % self.key_heads:
            yield "key_heads", f"must divide value_heads = {self.value_heads}"
        if self.activation == "sigmoid":  # pads, which are zeros before it, would reach the tokens after them
            yield "activation", "must be 0 at 0"
        plain = {"low_rank": None, "decay_floor": None, "decay_form": "fused", "stored": "model"}
        for name, value in plain.items():
            if self.decay == "head" and getattr(self, name) != value:
                yield name, f"must be {value!r} where decay = 'head'"
        if self.decay == "channel" and self.key_heads != self.value_heads:
            yield "key_heads", f"must be value_heads = {self.value_heads} where decay = 'channel'"
        if self.decay_floor is not None and (self.decay_floor >= 0 or self.decay_form == "written"):
            yield "decay_floor", "must be negative, and leaves nothing to softplus"
        yield from packing_problems(self.packing, self.projections)


@part
class StateSpace(Part):
    """Mamba-2 (arXiv 2405.21060): s ← exp(Δ·A)·s + Δ·B xᵀ; y = C·s + D x, with scalar A per head.

    x, B and C come out of a causal depthwise convolution and `activation`; Δ = softplus(Δ + bias), bounded by
    `time_step` in the scan only. The output is norm(y · silu(z)) over `norm_groups` slices, or norm(y) · silu(z)
    where `norm_first`; `norm` None leaves y · silu(z). `input_scales`, rounded to the model's dtype, multiply the
    segments (z, x, B, C, Δ) of the input projection (muP, arXiv 2203.03466). The state is float32.
    """

    role: ClassVar[str] = "mixer"

    heads: int
    head_dim: int
    state_dim: int
    groups: int
    convolution: int
    norm: Norm | None
    norm_groups: int = 1
    norm_first: bool = False
    activation: Activation = "silu"
    time_step: tuple[float, float] = (0.0, float("inf"))
    convolution_bias: bool = True
    biases: tuple[Literal["input", "output"], ...] = ()
    chunk: int = 256
    input_scales: tuple[float, ...] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.heads % self.groups:
            yield "groups", f"must divide heads = {self.heads}"
        if self.input_scales is not None and len(self.input_scales) != 5:
            yield "input_scales", "must hold five numbers: z, x, B, C, time step"
        if self.heads * self.head_dim % self.norm_groups:
            yield "norm_groups", f"must divide heads · head_dim = {self.heads * self.head_dim}"
        if self.norm is None and (self.norm_groups != 1 or self.norm_first):
            yield "norm", "is None, but norm_groups or norm_first is set"
        if not 0 <= self.time_step[0] < self.time_step[1]:
            yield "time_step", "must be (lowest, highest) with 0 ≤ lowest < highest"


@part
class LightningAttention(Part):
    """Linear attention with a fixed decay per head (arXiv 2401.04658): S ← exp(−s)·S + kᵀv; o = qS.

    s_h = 2^(−8(h+1)/heads) · (1 − l/(depth − 1 + 1e-5) + 1e-5) at layer l of `depth`. q, k and v pass `activation`;
    the output is σ(gate x) ⊙ norm(o), over all heads at once. The state has the model's dtype.
    """

    role: ClassVar[str] = "mixer"
    projections: ClassVar[tuple[str, ...]] = ("query", "key", "value", "gate")

    heads: int
    head_dim: int
    depth: int
    norm: Norm
    activation: Activation = "silu"
    block: int = 256
    packing: tuple[Packed, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        yield from packing_problems(self.packing, self.projections)


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


@part
class DecayedAverage(Part):
    """RWKV's time mixing (arXiv 2305.13048, 3.1): an average of all values so far, channel by channel.

    a_t = (Σ_{s<t} e^(k_s − (t−1−s) e^w) v_s + e^(u + k_t) v_t) / (the same sum without v), in float32 and relative to
    the largest exponent; the output is W_o (σ(r) ⊙ a). k, v and r are projections of m ⊙ x_t + (1 − m) ⊙ x_{t−1},
    with an m for each.
    """

    role: ClassVar[str] = "mixer"


@part
class ShiftedFeedForward(Part):
    """RWKV's channel mixing (arXiv 2305.13048, 3.1): σ(W_r x') ⊙ W_d relu(W_u x'')², which remembers a position.

    x' and x'' are m ⊙ x_t + (1 − m) ⊙ x_{t−1}, with an m for each.
    """

    role: ClassVar[str] = "mixer"

    width: int


@part
class MatrixMemory(Part):
    """mLSTM (arXiv 2405.04517, 2.3): C ← f C + i k vᵀ; n ← f n + i k; h = Cᵀq / (max(|n·q|, e^−m) + eps), per head.

    q is scaled by key_dim^-0.5; f = σ(W_f x + b) and i = exp(W_i x + b), whose arguments are capped: c · tanh(· / c),
    c the `gate_cap`. C and n are relative to e^m; m ← max(log f + m, log i) is 0 before the first position. The output
    is σ(W_g x) ⊙ norm(h), a norm of each head. As many positions as make whole chunks are multiplied at once.
    """

    role: ClassVar[str] = "mixer"

    heads: int
    key_dim: int
    value_dim: int
    norm: Norm
    gate_cap: float
    eps: float
    chunk: int = 64

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.gate_cap <= 0:
            yield "gate_cap", "must be positive"
