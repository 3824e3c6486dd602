"""Token mixers: the parts through which positions see each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.differential import Differential
from nexus_universal.architecture.part import ByLayer, Part, part
from nexus_universal.architecture.position import Alibi, Norm, QueryTemperature, Rope, YarnScaling, yarn_mscale

Activation = Literal[
    "silu", "gelu", "gelu_tanh", "gelu_new", "gelu_fast", "gelu_quick", "relu", "relu_squared", "sigmoid", "tanh"
]
"""gelu is exact (erf); gelu_tanh is torch's fused tanh form, gelu_new the same written out: other bits, other names."""


@part
class Packed(Part):
    """Projections stored as one matrix and multiplied at once.

    The rows lie in `groups` equal blocks, each holding its share of every role in order: 1 group is [q|k|v], as many
    groups as heads is [q0|g0|q1|g1|…]. It is part of n because one matrix product has other bits than three.
    """

    roles: tuple[str, ...]
    groups: int = 1

    @property
    def name(self) -> str:
        return "_".join(self.roles)


def packing_problems(
    packing: tuple[Packed, ...], roles: tuple[str, ...], biases: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """A packing may name each of the mixer's input projections at most once, and has one bias for all or none."""
    named = [role for packed in packing for role in packed.roles]
    for role in named:
        if role not in roles:
            yield "packing", f"names {role!r} (known: {', '.join(roles)})"
    if len(named) != len(set(named)):
        yield "packing", "names a role twice"
    for packed in packing:
        if 0 < len(set(packed.roles) & set(biases)) < len(packed.roles):
            yield "biases", f"must name all or none of {', '.join(packed.roles)}, which are packed into one matrix"


@part
class QueryKeyNorm(Part):
    """A norm on queries and keys, over each head or over the whole width, before or after the rotation."""

    norm: Norm
    over: Literal["head", "width"] = "head"
    when: Literal["before_rope", "after_rope"] = "before_rope"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.over == "width" and self.when == "after_rope":
            yield "when", "must be 'before_rope' where over = 'width': heads that are turned have been split"


@part
class OutputGate(Part):
    """The mixer's output times an activation of a projection of its input (arXiv 2505.06708)."""

    activation: Literal["sigmoid", "softplus"] = "sigmoid"
    per: Literal["channel", "head"] = "channel"


@part
class SparseIndexer(Part):
    """DeepSeek sparse attention: cheap scores choose, per query, the `keep` keys that attention may see.

    score_ts = Σ_h w_th · heads^-0.5 · relu(q_th · k_s · head_dim^-0.5), causal, in float32: q from the query latent,
    k and w from x. `scale_on` "weights" moves head_dim^-0.5 out of the relu to w (other bits). `emit` names the
    chosen set so that later layers can reuse it. `rope_dim` are the leading dimensions that turn, None all.
    """

    heads: int
    head_dim: int
    keep: int
    key_norm: Norm
    rope: Rope | None = None
    scale_on: Literal["scores", "weights"] = "scores"
    emit: str | None = None
    rope_dim: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rope_dim is not None and not (self.rope and self.rope_dim <= self.head_dim):
            yield "rope_dim", f"needs a rope, and must not exceed head_dim = {self.head_dim}"


@part
class ReusedIndices(Part):
    """The keys that an earlier layer's indexer chose and emitted under the name `reuse` (GLM-5)."""

    reuse: str


@part
class Attention(Part):
    """Softmax attention with any number of key/value heads (arXiv 2305.13245).

    `window` counts the query itself: key > query - window. `scale` None means head_dim^-0.5. `reuse` takes keys and
    values that an earlier layer `emit`s and has no projections for them. `value_dim` is a value head's width where it
    is not head_dim. `log_scale` n multiplies the query at position t ≥ n by log_n(t + 1) (arXiv 2202.12172). `sinks`
    give every head a learned score that takes part in the softmax and has no value (arXiv 2309.17453). `clip` bounds
    what the projections give on both sides, `inner_norm` norms all heads together before the output projection.

    `kernel` is the form of the reference, on which bits depend: "sdpa" is torch's fused kernel, without a mask where
    its causal flag says the same; "sdpa_masked" always has one, and leaves a single key/value head to broadcasting;
    "eager" is written out, its softmax in float32 (with sinks in the model's dtype); "eager_gated" leaves sinks out of
    it and multiplies by the share that they leave. `repeat_first` repeats key/value heads before the rotation,
    `late_bias` adds biases to the finished, rounded product.
    """

    role: ClassVar[str] = "mixer"
    projections: ClassVar[tuple[str, ...]] = ("query", "key", "value", "gate")

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None = None
    window: int | None = None
    causal: bool = True
    scale: float | ByLayer | None = None
    biases: tuple[Literal["query", "key", "value", "gate", "output"], ...] = ()
    packing: tuple[Packed, ...] = ()
    qk_norm: QueryKeyNorm | None = None
    value_norm: Norm | None = None
    gate: OutputGate | None = None
    softcap: float | None = None
    sinks: bool = False
    key_scale: float | None = None
    value_is_key: bool = False
    kernel: Literal["sdpa", "sdpa_masked", "eager", "eager_gated"] = "sdpa"
    alibi: Alibi | None = None
    repeat_first: bool = False
    late_bias: bool = False
    emit: str | None = None
    reuse: str | None = None
    value_dim: int | None = None
    log_scale: int | None = None
    temperature: QueryTemperature | None = None
    clip: float | None = None
    inner_norm: Norm | None = None
    differential: Differential | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.differential and self.kv_heads % 2:
            yield "kv_heads", "must be even where differential pairs heads"
        if self.differential and (self.value_dim or self.gate or self.repeat_first or self.kernel != "sdpa"):
            yield "differential", "needs kernel = 'sdpa', and neither gate, value_dim nor repeat_first"
        for name, least in (("log_scale", 2), ("clip", 1e-9)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                yield name, f"must be at least {least}"
        if self.heads % self.kv_heads:
            yield "kv_heads", f"must divide heads = {self.heads}"
        if self.rope:
            yield from self.rope.problems_in_head(self.head_dim, width="rope.fraction")
        if self.gate is None and any("gate" in packed.roles for packed in self.packing):
            yield "packing", "names 'gate', but gate = None"
        if self.gate is None and "gate" in self.biases:
            yield "biases", "names 'gate', but gate = None"
        if (self.softcap is not None or self.sinks) and not self.kernel.startswith("eager"):
            yield "kernel", "must be 'eager' where softcap or sinks are set: the fused kernel has neither"
        if self.kernel == "eager_gated" and not (self.sinks and self.softcap is None):
            yield "kernel", "is 'eager_gated' with sinks and without softcap only"
        if self.kernel == "sdpa_masked" and self.kv_heads not in (1, self.heads) and not self.repeat_first:
            yield "repeat_first", "must be True: kernel = 'sdpa_masked' broadcasts one key/value head only"
        if self.late_bias and not self.biases:
            yield "late_bias", "needs biases"
        if self.value_dim is not None and self.value_is_key:
            yield "value_dim", "must be None where the value is the key"
        for role in self._absent_roles():
            if role in self.biases or any(role in packed.roles for packed in self.packing):
                yield "biases" if role in self.biases else "packing", f"names {role!r}, which has no projection here"
        if self.reuse:
            for name, plain in (("emit", None), ("value_is_key", False), ("value_norm", None), ("key_scale", None)):
                if getattr(self, name) != plain:
                    yield name, f"must be {plain}: reuse takes finished keys and values from an earlier layer"
        yield from packing_problems(self.packing, self.projections, self.biases)

    def _absent_roles(self) -> tuple[str, ...]:
        """Roles without a projection of their own."""
        if self.reuse:
            return ("key", "value")
        return ("value",) if self.value_is_key else ()

    @property
    def value_width(self) -> int:
        """Width of a value head."""
        return self.value_dim or self.head_dim

    def softmax_scale(self, layer_index: int) -> float:
        """What query · key is multiplied by."""
        if self.scale is None:
            return self.head_dim**-0.5
        return self.scale.at(layer_index) if isinstance(self.scale, ByLayer) else self.scale


@part
class LatentAttention(Part):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values expand from one small latent.

    Per head the query and key are [nope | rope]; the rotated key is shared by all heads. `query_rank` None projects the
    query directly. `scale_by_yarn` multiplies the softmax scale by YaRN's squared temperature.
    """

    role: ClassVar[str] = "mixer"

    heads: int
    query_rank: int | None
    latent_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    latent_norm: Norm
    rope: Rope | None = None
    scale_by_yarn: bool = False
    biases: tuple[Literal["query_down", "latent_down", "output"], ...] = ()
    query_scale: float | None = None
    latent_scale: float | None = None
    gate: OutputGate | None = None
    sinks: bool = False
    indexer: SparseIndexer | ReusedIndices | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rope:
            yield from self.rope.problems_in_head(self.rope_dim, width="rope_dim")
        if "query_down" in self.biases and self.query_rank is None:
            yield "biases", "names 'query_down', but query_rank = None"
        if self.query_rank is None and isinstance(self.indexer, SparseIndexer):
            yield "query_rank", "must not be None: the indexer's queries come from the query latent"
        if self.scale_by_yarn and not (self.rope and isinstance(self.rope.scaling, YarnScaling)):
            yield "scale_by_yarn", "needs rope.scaling = YarnScaling(…)"

    @property
    def head_dim(self) -> int:
        """Width of a query or key head."""
        return self.nope_dim + self.rope_dim

    @property
    def softmax_scale(self) -> float:
        """What query · key is multiplied by."""
        scale = self.head_dim**-0.5
        if self.scale_by_yarn and self.rope and isinstance(self.rope.scaling, YarnScaling):
            mscale = yarn_mscale(self.rope.scaling.factor, self.rope.scaling.mscale_all_dim or 0.0)
            scale = scale * mscale * mscale
        return scale


@part
class GatedDeltaRule(Part):
    """Gated delta rule (arXiv 2412.06464), or Kimi delta attention where the decay is per key channel (2510.26692).

    S ← exp(g)·S;  S ← S + k (β (v − kᵀS))ᵀ;  o = Sᵀ q · key_dim^-0.5, with g = −exp(A)·softplus(a + bias), q and k
    L2-normed, after a causal depthwise convolution over [q|k|v]; the output is normed per head and gated.
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

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.value_heads % self.key_heads:
            yield "key_heads", f"must divide value_heads = {self.value_heads}"
        if self.low_rank and self.decay == "head":
            yield "low_rank", "factorises the decay and the gate of decay = 'channel' only"
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
class CompressedAttention(Part):
    """DeepSeek-V4: one vector per position is key and value of all heads; far positions are seen in compressed form.

    q = up(norm(down x)), each head then divided by its RMS, whose reciprocal is rounded to x's dtype first; kv =
    norm(W x). `rate` positions become one entry, Σ_j softmax_j(gate x_j + bias_j) ⊙ (W' x_j) per channel, normed and
    rotated at its first position; with `overlap` a second series of the positions before takes part. Entry w is
    visible to position t iff w < (t + 1) // rate. An `indexer` keeps the best entries per query, its keys compressed
    the same way; None keeps all. `rate` None is plain windowed attention. Every head has a sink, and the softmax runs
    in the model's dtype. The output is rotated back by the query's angle and projected by `output_groups` blocks of
    `output_rank`, then mixed. All norms have `latent_norm`'s epsilon.
    """

    role: ClassVar[str] = "mixer"

    heads: int
    head_dim: int
    query_rank: int
    window: int
    rope: Rope
    latent_norm: Norm
    output_groups: int
    output_rank: int
    rate: int | None = None
    overlap: bool = False
    indexer: SparseIndexer | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rate is None and (self.overlap or self.indexer):
            yield "rate", "is None, but overlap and indexer work on compressed entries"
        if self.heads % self.output_groups:
            yield "output_groups", f"must divide heads = {self.heads}"


@part
class LowRank(Part):
    """B(A x) with A, B of `rank`: what a learned augmented residual adds (LAuReL, arXiv 2411.07501)."""

    rank: int
