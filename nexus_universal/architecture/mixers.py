"""Token mixers: the parts through which positions see each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.differential import Differential
from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.architecture.indexers import BlockIndexer, PooledIndexer, ReusedIndices, SparseIndexer
from nexus_universal.architecture.packing import Packed, packing_problems
from nexus_universal.architecture.part import ByLayer, Part, part
from nexus_universal.architecture.position import (
    Alibi,
    Norm,
    QueryTemperature,
    RelativeBias,
    Rope,
    YarnScaling,
    yarn_mscale,
)
from nexus_universal.architecture.residual_convolution import DynamicConvolution, ResidualConvolution
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK

Activation = Literal[
    "silu",
    "gelu",
    "gelu_tanh",
    "gelu_new",
    "gelu_fast",
    "gelu_derived",
    "gelu_quick",
    "relu",
    "relu_squared",
    "sigmoid",
    "tanh",
]
"""gelu is exact (erf); gelu_tanh is torch's fused tanh form, gelu_new the same written out: other bits, other names.
gelu_fast rounds its constant, and gelu_derived is the same with a derivative written out."""


@part
class QueryKeyNorm(Part):
    """A norm on queries and keys, over each head or over the whole width, before or after the rotation.

    With `own` every head has weights of its own. `order` is that in which heads are normed before the rotation:
    position by position, or head by head (the same numbers, other bits in gradients).
    """

    norm: Norm
    over: Literal["head", "width"] = "head"
    when: Literal["before_rope", "after_rope"] = "before_rope"
    own: bool = False
    order: Literal["positions", "heads"] = "positions"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.own and (self.over == "width" or self.when == "after_rope"):
            yield "own", "needs over = 'head' and when = 'before_rope'"
        if self.order == "heads" and (self.over == "width" or self.when == "after_rope"):
            yield "order", "must be 'positions' but where each head is normed before the rotation"
        if self.own and (self.order == "heads") != (self.norm.rounding == "native"):
            yield (
                "order",
                "must be 'heads' where own weights meet torch's kernel, which takes one head, else 'positions'",
            )
        if self.over == "width" and self.when == "after_rope":
            yield "when", "must be 'before_rope' where over = 'width': heads that are turned have been split"


@part
class OutputGate(Part):
    """The mixer's output times an activation of a projection of its input (arXiv 2505.06708).

    `wide` takes the "activation" in float32, or the "product" with the output, too. `head_bias` adds a learned number
    per head to the projection's channels.
    """

    activation: Literal["sigmoid", "softplus"] = "sigmoid"
    per: Literal["channel", "head"] = "channel"
    wide: Literal["none", "activation", "product"] = "none"
    head_bias: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.head_bias and self.per == "head":
            yield "head_bias", "must be False where per = 'head': the projection's own bias says it"


@part
class Attention(Part):
    """Softmax attention with any number of key/value heads (arXiv 2305.13245).

    Projected keys and values each pass a `convolution` of their own before anything else. `apart` norms, each with its
    own weights, what keys, what values and what all else is projected of: x, or three vectors that x joins (queries',
    keys', values'). Queries times learned numbers, and keys, are no longer than `length_limit`. `projected_sinks` give
    every head a score from x that takes part in a float32 softmax and has no value.
    `window` counts the query itself: key > query - window; `chunked`, it is the query's own of chunks of so many
    positions, of which it sees no other (Llama 4). `scale` None means head_dim^-0.5. `reuse` takes keys and values that
    an earlier layer `emit`s and has no projections for them. `value_dim` is a value head's width where it is not
    head_dim. `log_scale` n multiplies the query at position t ≥ n by log_n(t + 1) (arXiv 2202.12172). `sinks` give
    every head a learned score that takes part in the softmax and has no value (arXiv 2309.17453). `clip` bounds what
    the projections, and a norm of their whole width, give on both sides; `inner_norm` norms all heads together before
    the output projection. `query_scale` multiplies the projected query, `value_scale` values. `contiguous` copies
    queries, keys and values head by head before they meet: the same numbers, other bits in gradients. A layer with a
    window `keeps` no more keys than it spans, or all: other bits again (GPT-Neo). An `indexer` chooses keys;
    `sparsity` leaves some out, by place or score, and needs no weights.

    `kernel` is the form of the reference, on which bits depend: "sdpa" is torch's fused kernel, without a mask where
    its causal flag says the same; "sdpa_masked" always has one, and leaves a single key/value head to broadcasting;
    "eager" is written out, its softmax in float32 (with sinks in the model's dtype), "eager_rounded" with one in the
    model's dtype always; "eager_gated" leaves sinks out of it and multiplies by the share that they leave.
    "eager_divided" divides scores by 1/`scale`; "eager_wide" does so, too, and multiplies queries and keys in float32;
    "eager_fused" scales and adds the mask within the product, and "eager_fused_rounded" does so before a softmax in the
    model's dtype; "eager_shifted" takes the scores' maximum off before a
    softmax in their dtype, as "eager" does with sinks; "eager_wide_sinks" has sinks beside float32 scores.
    `repeat_first` repeats key/value heads before the rotation, `late_bias` adds biases to the finished, rounded
    product.
    """

    role: ClassVar[str] = "mixer"
    projections: ClassVar[tuple[str, ...]] = ("query", "key", "value", "relative", "gate", "sink")

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
    kernel: Literal[
        "sdpa",
        "sdpa_masked",
        "eager",
        "eager_rounded",
        "eager_gated",
        "eager_divided",
        "eager_wide",
        "eager_fused",
        "eager_fused_rounded",
        "eager_shifted",
        "eager_wide_sinks",
    ] = "sdpa"
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
    dynamic_mask: DynamicMask | None = None
    query_scale: float | None = None
    value_scale: float | None = None
    contiguous: bool = False
    keeps: Literal["window", "all"] = "window"
    chunked: bool = False
    convolution: ResidualConvolution | DynamicConvolution | None = None
    relative: RelativeBias | None = None
    apart: Norm | None = None
    length_limit: float | None = None
    projected_sinks: bool = False
    indexer: PooledIndexer | BlockIndexer | None = None
    sparsity: BlockSparse | Strided | TopK | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.convolution and (self.reuse or self.value_is_key or self.packing):
            yield "convolution", "needs keys and values of its own, each from a matrix of its own"
        if self.relative and (self.kernel not in ("sdpa", "eager") or self.alibi or self.dynamic_mask):
            yield "relative", "needs kernel = 'sdpa' or 'eager', and neither alibi nor dynamic_mask"
        if self.relative and self.differential:
            yield "relative", "must be None beside differential"
        if self.apart and (self.packing or self.reuse or self.value_is_key):
            yield "apart", "needs keys and values of its own, each from a matrix of its own"
        if self.length_limit is not None and (self.qk_norm or self.reuse):
            yield "length_limit", "must be None beside qk_norm and reuse"
        if self.projected_sinks and (self.kernel != "eager" or self.sinks):
            yield "projected_sinks", "needs kernel = 'eager' and sinks = False"
        if self.indexer and (self.kernel != "sdpa" or self.window or self.alibi or self.reuse or self.dynamic_mask):
            yield "indexer", "needs kernel = 'sdpa', and neither window, alibi, reuse nor dynamic_mask"
        if isinstance(self.indexer, BlockIndexer) and self.heads % self.indexer.heads:
            yield "indexer.heads", f"must divide heads = {self.heads}"
        if self.indexer and self.rope and self.rope.dims(self.head_dim) > self.indexer.head_dim:
            yield "indexer.head_dim", f"must be at least {self.rope.dims(self.head_dim)}, of which the rope turns all"
        if self.dynamic_mask and (self.kernel != "sdpa" or self.alibi or self.reuse or self.differential):
            yield "dynamic_mask", "needs kernel = 'sdpa', and neither alibi, reuse nor differential"
        if self.sparsity and (self.indexer or self.dynamic_mask):
            yield "sparsity", "must be None beside an indexer or a dynamic_mask: they choose among all keys"
        if isinstance(self.sparsity, BlockSparse | Strided) and self.window is not None:
            yield "sparsity", "must be None or TopK(…) where there is a window: its local part says as much"
        if self.dynamic_mask and self.repeat_first:
            yield "repeat_first", "must be False where a dynamic_mask reads the values of key/value heads"
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
            yield from self.rope.problems_in_head(
                self.head_dim, width="rope.fraction", kept=self.kernel == "eager_wide"
            )
        for role in (role for packed in self.packing for role in packed.roles if self._lacks(role)):
            yield "packing", f"names {role!r}, of which there is none"
        if self.gate is None and "gate" in self.biases:
            yield "biases", "names 'gate', but gate = None"
        if (self.softcap is not None or self.sinks) and not self.kernel.startswith("eager"):
            yield "kernel", "must be 'eager' where softcap or sinks are set: the fused kernel has neither"
        fused = ("eager_fused", "eager_fused_rounded")
        if self.kernel in ("eager_divided", "eager_wide", *fused) and (self.softcap is not None or self.sinks):
            yield "kernel", f"is {self.kernel!r} without softcap and sinks only"
        if self.kernel == "eager_gated" and not (self.sinks and self.softcap is None):
            yield "kernel", "is 'eager_gated' with sinks and without softcap only"
        if self.kernel in ("eager_rounded", "eager_shifted") and self.sinks:
            yield "kernel", f"is {self.kernel!r} without sinks only: with them 'eager' does so already"
        if self.kernel == "eager_wide_sinks" and not self.sinks:
            yield "kernel", "is 'eager_wide_sinks' with sinks only"
        if self.kernel == "sdpa_masked" and self.kv_heads not in (1, self.heads) and not self.repeat_first:
            yield "repeat_first", "must be True: kernel = 'sdpa_masked' broadcasts one key/value head only"
        if self.chunked and (self.window is None or self.alibi):
            yield "chunked", "needs a window, and no alibi"
        if self.alibi and self.alibi.rounding == "none" and self.kernel in ("sdpa", "sdpa_masked", *fused):
            yield "alibi.rounding", "must not be 'none' for a fused kernel or product, which take no wider mask"
        if self.keeps == "all" and self.window is None:
            yield "keeps", "must be 'window' where there is none: all is kept anyway"
        if self.late_bias and not self.biases:
            yield "late_bias", "needs biases"
        if self.value_dim is not None and self.value_is_key:
            yield "value_dim", "must be None where the value is the key"
        for role in self._absent_roles():
            if role in self.biases or any(role in packed.roles for packed in self.packing):
                yield "biases" if role in self.biases else "packing", f"names {role!r}, which has no projection here"
        if self.reuse:
            plain = {"emit": None, "value_is_key": False, "value_norm": None, "key_scale": None, "value_scale": None}
            for name, value in plain.items():
                if getattr(self, name) != value:
                    yield name, f"must be {value}: reuse takes finished keys and values from an earlier layer"
        yield from packing_problems(self.packing, self.projections, self.biases)

    def _absent_roles(self) -> tuple[str, ...]:
        """Roles without a projection of their own."""
        if self.reuse:
            return ("key", "value")
        return ("value",) if self.value_is_key else ()

    def _lacks(self, role: str) -> bool:
        return not {"gate": self.gate, "relative": self.relative, "sink": self.projected_sinks}.get(role, True)

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
    query directly. `scale_by_yarn` multiplies the softmax scale by YaRN's squared temperature. A `late_gate` is
    projected behind the attention and not before it: gradients then meet in another order, and differ in bits. A
    `joint_gate` and the query are one product of the query latent joined to what its norm reads (A.X K2). `query_scale`
    multiplies the query, or with `query_scale_on` "latent" the normed latent that it and an indexer's query come from;
    `latent_scale` the normed latent of keys and values. `rope_norm` norms the shared key before it turns. A `window`
    is as in `Attention`.
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
    query_scale_on: Literal["query", "latent"] = "query"
    latent_scale: float | None = None
    rope_norm: Norm | None = None
    window: int | None = None
    gate: OutputGate | None = None
    late_gate: bool = False
    joint_gate: bool = False
    sinks: bool = False
    indexer: SparseIndexer | ReusedIndices | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rope:
            yield from self.rope.problems_in_head(self.rope_dim, width="rope_dim")
        if "query_down" in self.biases and self.query_rank is None:
            yield "biases", "names 'query_down', but query_rank = None"
        if (self.late_gate or self.joint_gate) and self.gate is None:
            yield "late_gate" if self.late_gate else "joint_gate", "needs a gate"
        if self.joint_gate and (self.late_gate or self.query_rank is None or (self.gate and self.gate.per == "head")):
            yield "joint_gate", "needs query_rank, a gate per channel, and late_gate = False"
        if self.query_scale_on == "latent" and (self.query_rank is None or self.query_scale is None):
            yield "query_scale_on", "must be 'query' where there is no query latent, or no query_scale"
        if self.window is not None and self.indexer:
            yield "window", "must be None where an indexer chooses among all keys"
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
        yield from self.rope.problems_in_head(self.head_dim, width="head_dim")
        if self.rate is None and (self.overlap or self.indexer):
            yield "rate", "is None, but overlap and indexer work on compressed entries"
        if self.indexer and self.indexer.rope_dim is not None:
            yield "indexer.rope_dim", "must be None: its rope says what of compressed entries turns"
        if self.indexer and self.indexer.rope and self.indexer.rope.rounded == "kept":
            yield "indexer.rope.rounded", "must be 'all': compressed entries are rounded"
        if self.heads % self.output_groups:
            yield "output_groups", f"must divide heads = {self.heads}"


@part
class LowRank(Part):
    """B(A x) with A, B of `rank`: what a learned augmented residual adds (LAuReL, arXiv 2411.07501)."""

    rank: int
