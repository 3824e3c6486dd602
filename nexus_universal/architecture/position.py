"""Norms and positions: the parts that other parts hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from nexus_universal.architecture.part import Part, part


@part
class Norm(Part):
    """RMSNorm (arXiv 1910.07467) or LayerNorm (arXiv 1607.06450).

    `rounding` says where half-precision statistics, kept in float32, are rounded back to the input's dtype: before the
    multiplication with the weight, after it, or not by hand at all because torch's own kernel does everything; with
    "native_float32" the kernel is given float32, and what it gives is rounded. `root`
    "power" takes the reciprocal root of an RMSNorm as a power of -1/2: the same numbers, but other bits in gradients.
    `gate_rank` multiplies the normed y by σ(B silu(A y)), A and B of that rank, in float32 (A.X K2).
    """

    kind: Literal["rms", "layer"]
    eps: float
    scale: Literal["weight", "one_plus_weight", "none"] = "weight"
    bias: bool = False
    rounding: Literal["before_scale", "after_scale", "native", "native_float32"] = "before_scale"
    root: Literal["rsqrt", "power"] = "rsqrt"
    gate_rank: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.gate_rank is not None and (self.kind, self.rounding, self.scale) != ("rms", "before_scale", "weight"):
            yield "gate_rank", "needs kind = 'rms', rounding = 'before_scale' and scale = 'weight'"
        if self.eps < 0:
            yield "eps", "must not be negative"
        if self.kind == "rms" and self.rounding == "native_float32":
            yield "rounding", "is 'native_float32' for kind = 'layer' only"
        if self.kind == "rms" and self.rounding == "native" and self.scale == "one_plus_weight":
            yield "scale", "must be 'weight' or 'none' where torch's own kernel computes an RMSNorm"
        if self.rounding == "native_float32" and self.scale != "none":
            yield "rounding", "is 'native_float32' for scale = 'none' only"
        if self.bias and self.scale == "none":
            yield "bias", "needs a scale"
        if self.root == "power" and (self.kind == "layer" or self.rounding == "native"):
            yield "root", "must be 'rsqrt' for kind = 'layer' and for torch's own kernel"


@part
class LinearScaling(Part):
    """Position interpolation (arXiv 2306.15595): all frequencies divided by `factor`."""

    factor: float


@part
class DynamicScaling(Part):
    """Dynamic NTK: beyond `context` the base grows with the call's length. Depends on the call, not on a position."""

    factor: float
    context: int


@part
class Llama3Scaling(Part):
    """Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between them."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """YaRN's attention temperature, sqrt(1/t) = 0.1 · mscale · ln(factor) + 1 (arXiv 2309.00071, section 3.4)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


@part
class YarnScaling(Part):
    """YaRN (arXiv 2309.00071): interpolated and extrapolated frequencies blended by a ramp."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.mscale is not None and (self.mscale_all_dim is None or self.attention_factor is not None):
            yield (
                "mscale",
                "needs mscale_all_dim, since their ratio counts, and attention_factor = None, which overrides it",
            )

    @property
    def table_factor(self) -> float:
        """What cos and sin are multiplied by: given, or derived from the factor and the two mscales."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return float(yarn_mscale(self.factor, self.mscale) / yarn_mscale(self.factor, self.mscale_all_dim))
        return yarn_mscale(self.factor)


@part
class LongRopeScaling(Part):
    """LongRoPE (arXiv 2402.13753): one factor per frequency; the long set once a call passes `original_context`.

    Cos and sin are multiplied by `attention_factor`, and by `long_attention_factor` in such a call.
    """

    factor: float
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_context: int
    attention_factor: float | None = None
    long_attention_factor: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.long_attention_factor is not None and self.attention_factor is None:
            yield "long_attention_factor", "needs attention_factor, which it takes the place of"

    @property
    def table_factor(self) -> float:
        """What cos and sin are multiplied by."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1.0 else math.sqrt(1 + math.log(self.factor) / math.log(self.original_context))


@part
class ProportionalScaling(Part):
    """The rotated fraction's exponents run over the whole head; the other frequencies are zero, and all are divided."""

    factor: float = 1.0


@part
class SteppedScaling(Part):
    """Dynamic NTK in steps (Qwen-7B): a row of L > `context` positions has base θ · α^(d/(d-2)).

    α = 2^⌈log2(L / context) + 1⌉ - 1. L is the row's length at the first call: what is cached keeps its base.
    """

    context: int


Scaling = (
    LinearScaling
    | DynamicScaling
    | Llama3Scaling
    | YarnScaling
    | LongRopeScaling
    | ProportionalScaling
    | SteppedScaling
)


@part
class Rope(Part):
    """Rotary position embedding (arXiv 2104.09864).

    `pairing`: which two dimensions turn together: (i, i + d/2), or (2i, 2i + 1), or the latter read and the former
    written (the same dot products, other bits). `table` and `product` are the dtypes of cos/sin and of the rotation;
    "complex64" is a product of complex numbers, from kernels of torch with other last bits. `clockwise` turns by the
    negative angle. `over` is the order that its input lies in: heads of positions, or positions of heads (the same
    numbers, other bits in gradients). `frequencies` "float64" computes angles in it, too, as positions divided by
    theirs (RoFormer). `rounded` "kept" leaves queries and
    keys in the dtype of the product, but for keys that a cache keeps (CodeGen), an indexer's excepted (dots3).
    """

    theta: float
    fraction: float = 1.0
    pairing: Literal["half", "interleaved", "interleaved_to_half"] = "half"
    part_rotated: Literal["first", "last"] = "first"
    scaling: Scaling | None = None
    table: Literal["model", "float32"] = "model"
    product: Literal["model", "float32", "complex64"] = "model"
    clockwise: bool = False
    over: Literal["heads", "positions"] = "heads"
    frequencies: Literal["float32", "float64"] = "float32"
    rounded: Literal["all", "kept"] = "all"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.product == "complex64" and (self.table, self.pairing) != ("float32", "interleaved"):
            yield "product", "'complex64' needs table = 'float32' and pairing = 'interleaved'"
        if self.theta <= 0:
            yield "theta", "must be positive"
        if self.rounded == "kept" and self.product != "float32":
            yield "rounded", "must be 'all' but where product = 'float32'"
        if self.frequencies != "float32" and (self.scaling or self.product == "complex64"):
            yield "frequencies", "must be 'float32' where there is a scaling or a complex product"
        if not 0 < self.fraction <= 1:
            yield "fraction", "must lie in (0, 1]"
        if self.part_rotated == "last" and (self.fraction == 1 or isinstance(self.scaling, ProportionalScaling)):
            yield "part_rotated", "is 'last' only where a part is rotated: fraction < 1, and no proportional scaling"

    def problems_in_head(self, head_dim: int, *, width: str, kept: bool = False) -> Iterator[tuple[str, str]]:
        """What contradicts a head of this width; `width` is the name of the holder's field that says it.

        Only scores that are `kept` in float32 take queries and keys that are.
        """
        dims = self.dims(head_dim)
        if self.rounded == "kept" and not kept:
            yield "rope.rounded", "must be 'all' but for kernel = 'eager_wide', which takes wider queries"
        if dims % 2:
            yield ("rope.fraction" if head_dim % 2 == 0 else width), f"rotates {dims} dimensions, which must be even"
        if dims == 2 and isinstance(self.scaling, DynamicScaling):
            yield "rope.scaling", "needs four dimensions to rotate, or more: its base grows by a power d / (d - 2)"

    def at_the_end(self) -> Rope:
        """The same rotation of a head's last dimensions, where it leaves some."""
        return replace(self, part_rotated="last" if self.fraction < 1 else "first")

    def dims(self, head_dim: int) -> int:
        """How many of `head_dim` dimensions the tables span."""
        if isinstance(self.scaling, ProportionalScaling):
            return head_dim
        return int(head_dim * self.fraction)


@part
class Alibi(Part):
    """Attention with linear biases (arXiv 2108.12409): slope_h · j is added to the score of every key j.

    slope_h = 2^(-8h/heads), h from 1, where heads is a power of two; heads beyond one take every second slope of twice
    as many. `scaled` adds the bias to q·k before both are scaled. `rounding` "bfloat16" rounds slopes and biases to it
    in a model of any dtype (Falcon), "none" keeps them float32. `origin` "last" is slope_h · (j - last key), where
    pads behind all tokens count (MPT): the same softmax, other bits. `slopes` are powers of the first one, or
    reciprocals of powers of 2: the same numbers, other bits.
    """

    scaled: bool = False
    rounding: Literal["model", "bfloat16", "none"] = "model"
    origin: Literal["first", "last"] = "first"
    slopes: Literal["powers", "reciprocals"] = "powers"


@part
class QueryTemperature(Part):
    """Queries at position t are multiplied by 1 + growth · ln(1 + ⌊t / span⌋), after the rotation (arXiv 2501.19399).

    With `form` "log_next" t counts from 1 (Llama 4); "power" takes (1 + t / span)^growth of such a t instead (Beam),
    "log_above" 1 + growth · ln(max(t / span, 1)) (Inkling). All three multiply in float32.
    """

    growth: float
    span: int
    form: Literal["log", "log_next", "power", "log_above"] = "log"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.span < 1:
            yield "span", "must be at least 1"


@part
class RelativeBias(Part):
    """A number that a query adds to its score of the key n positions before it: (R x)ᵀ p_n, and 0 from `extent` on.

    R x is a vector of `width` for each head, p_n are learned vectors that all heads share (Inkling). Where the
    attention has a temperature, it multiplies the bias as well, or R x where `grown` "mixing" (the same numbers, other
    bits). A `length_limit` is the longest that R x times learned numbers may be.
    """

    width: int
    extent: int
    length_limit: float | None = None
    grown: Literal["bias", "mixing"] = "bias"


@part
class LearnedPositions(Part):
    """A table of `count` learned position vectors, added to the token embedding; row = position + `offset`.

    Where no positions are given, tokens `uncounted` (pads) do not count: they stand at position -1, whose row never
    receives a gradient (fairseq, RoBERTa). `masked` does not count those that the attention mask hides (OPT).
    """

    count: int
    offset: int = 0
    uncounted: int | None = None
    masked: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.masked and self.uncounted is not None:
            yield "masked", "must be False where tokens are uncounted"
        if (self.masked or self.uncounted is not None) and self.offset < 1:
            yield "offset", "must be at least 1 where tokens are uncounted: they stand one row before the first"
        if self.offset >= self.count:
            yield "count", f"must exceed offset = {self.offset}"

    @property
    def reach(self) -> int:
        """How many positions have a row."""
        return self.count - self.offset


@part
class SinusoidPositions(Part):
    """Fixed position vectors (arXiv 1706.03762, 3.5), added to the token embedding: `count` rows.

    Row t = position + `offset` holds sine and cosine of a_i = t · 10000^(-2i/d), in turn, or all of one before all of
    the other. `closed` lets the last frequency be 1/10000 itself, a_i = t · 10000^(-i/(d/2 - 1)), in float32 all
    through (tensor2tensor, fairseq); otherwise `angles` says what they are computed in. The row `zero` is empty.
    `uncounted` is as in a learned table.
    """

    count: int
    offset: int = 0
    layout: Literal["pairs", "sin_cos", "cos_sin"] = "pairs"
    closed: bool = False
    angles: Literal["float64", "float32"] = "float64"
    zero: int | None = None
    uncounted: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.uncounted is not None and self.offset < 1:
            yield "offset", "must be at least 1 where tokens are uncounted: they stand one row before the first"
        if self.offset >= self.count:
            yield "count", f"must exceed offset = {self.offset}"
        if self.closed and self.angles != "float64":
            yield "angles", "must be left alone where closed"
        if self.closed and self.layout == "pairs":
            yield "layout", "must keep sines and cosines apart where closed"

    @property
    def reach(self) -> int:
        """How many positions have a row."""
        return self.count - self.offset
