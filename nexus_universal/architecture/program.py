"""How parts are wired: registers, programs, steps, branches, and the ways a residual is read and written.

A layer is a program; a program is a list of steps over named registers. A step reads a vector, norms it, hands it to
its branches and writes ordered sums back:

    u = read(registers);  v = norm(u);  y_b = output_norm_b(f_b(input_scale_b · input_norm_b(v)))
    register = scale · norm( Σ in order of terms / divisor )

Registers that always exist: `x` (the residual) and `e` (the embedding's output). A term may also name `u`, `v` or a
branch. Whatever a branch reads, what it gives has the model's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention, LowRank
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    DecayedAverage,
    GatedDeltaRule,
    GatedLinearRecurrence,
    LightningAttention,
    MatrixMemory,
    ShiftedFeedForward,
    ShortConvolution,
    StateSpace,
)
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.architecture.stream_gate import StreamGate


@part
class Read(Part):
    """What a step works on: a register, the ordered sum of several, their concatenation, or attention over them.

    "attend" is Σ_j softmax_j(q · y_j / √d) y_j with y_j = r_j / rms(r_j), all in float32, for each of so many learned
    `queries`, side by side; a norm behind it rounds to the model's dtype (Inkling 2).
    """

    registers: tuple[str, ...] = ("x",)
    join: Literal["sum", "concat", "attend"] = "sum"
    scale: float | None = None
    queries: int = 1

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.registers:
            yield "registers", "must name at least one register"
        if self.join != "sum" and len(self.registers) < 2:
            yield "join", f"{self.join!r} needs two registers or more"
        if self.join != "attend" and self.queries > 1:
            yield "queries", "must be 1 but where join = 'attend'"

    def width(self, widths: Mapping[str, int]) -> int:
        """How wide u is, given the registers' widths."""
        read = [widths[name] for name in self.registers]
        return sum(read) if self.join == "concat" else self.queries * read[0]


@part
class Term(Part):
    """One summand of a write: a register, `u`, `v` or a branch, times a number.

    `gain` "scale" multiplies it by a learned vector, "shift_scale" adds another one first (ZAYA); "number" multiplies
    it by a single learned number (Inkling).
    """

    source: str
    scale: float | None = None
    gain: Literal["none", "number", "scale", "shift_scale"] = "none"


@part
class Write(Part):
    """register = scale · norm(Σ terms / divisor): the terms are summed from the left, so their order is part of n.

    A `divisor` is no scale: x / √2 and x · (1/√2) differ in bits. `layer_scale` multiplies at the end by a number
    that the checkpoint holds for this layer (Gemma 4). `dtype` "float32" widens the terms, "model" rounds the sum.
    """

    terms: tuple[Term, ...]
    register: str = "x"
    scale: float | None = None
    norm: Norm | None = None
    layer_scale: bool = False
    divisor: float | None = None
    dtype: Literal["terms", "float32", "model"] = "terms"

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.terms:
            yield "terms", "must not be empty"
        if not self.register.isidentifier() or self.register in ("u", "v", "e"):
            yield "register", "must be an identifier other than 'u', 'v' and 'e'"
        if self.divisor == 0:
            yield "divisor", "must not be zero"


@part
class HyperConnection(Part):
    """Manifold-constrained hyper-connections over several residual streams (arXiv 2409.19606, DeepSeek-V4).

    [pre | post | comb] = F · rms(all streams, concatenated), in float32. u = Σ_j (σ(s₀ pre_j + b_j) + eps) x_j; then
    x_j = 2σ(s₁ post_j + b'_j) y + Σ_i C_ij x_i, where C is softmax(s₂ comb + B) + eps, made doubly stochastic by
    `iterations` of Sinkhorn, columns first. The norm has no weight, and epsilon `norm_eps`.
    """

    streams: int
    iterations: int
    eps: float
    norm_eps: float

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("eps", "norm_eps"):
            if getattr(self, name) < 0:
                yield name, "must not be negative"


@part
class GatedStreams(Part):
    """Hyper-connections whose streams are never mixed (Hunyuan 4): u = Σ_j a_j x_j; then x_j = x_j + c_j y.

    [α | γ] = (F x) / rms(x) over all streams, concatenated, in float32 with epsilon `norm_eps`; a = σ(s₀ α + b) + eps
    and c = `magnitude` · σ(s₁ γ + b') + eps. The sum is float32, too.
    """

    streams: int
    magnitude: float
    eps: float
    norm_eps: float

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("eps", "norm_eps"):
            if getattr(self, name) < 0:
                yield name, "must not be negative"


@part
class ChannelGatedStreams(Part):
    """Streams that a `gate` makes one u of, channel by channel, and that are never mixed: x_j = x_j + c_j y.

    c = 2σ(C n / streams), where n are the gate's normed streams (Qwen4-Exp).
    """

    streams: int
    gate: StreamGate


@part
class AltUp(Part):
    """Alternating updates (arXiv 2301.13310): predict all streams, run the step on one, correct all by its error.

    m(x) = tanh(M norm(x) / d). p_j = x_j + Σ_k P(m(x_a))_jk x_k; u = p_a for the `active` stream a; then
    x_j = p_j + (1 + C(m(y))_j) (y − p_a).
    """

    streams: int
    active: int
    norm: Norm

    def problems(self) -> Iterator[tuple[str, str]]:
        if not 0 <= self.active < self.streams:
            yield "active", f"must lie in [0, {self.streams})"


@part
class StreamSlice(Part):
    """Read stream `read` (times a learned vector where `read_scale`); add what is written to the streams `write`."""

    read: int
    write: tuple[int, ...]
    read_scale: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.read < 0:
            yield "read", "must not be negative"
        if not self.write or min(self.write) < 0 or len(set(self.write)) != len(self.write):
            yield "write", "must name streams, each once"


Connection = HyperConnection | GatedStreams | ChannelGatedStreams | AltUp | StreamSlice


@part
class Adapter(Part):
    """A low-rank addition W x + B(A x) that one use of shared weights has of its own (arXiv 2106.09685).

    `target` names a projection of the shared part, behind the branch's name where that part is a program:
    `attention.query`, `feed_forward.gate_up`. Packed projections have one adapter together.
    """

    target: str
    rank: int


@part
class Branch(Part):
    """One function of a step: a primitive, or a program over its own x.

    `share` names weights of the part that every branch with that name uses; the branch's own norms are not among
    them, and `adapters` are this use's own low-rank additions.
    """

    name: str
    part: (
        Attention
        | LatentAttention
        | GatedDeltaRule
        | StateSpace
        | ShortConvolution
        | ChannelStateSpace
        | GatedLinearRecurrence
        | LightningAttention
        | DecayedAverage
        | ShiftedFeedForward
        | MatrixMemory
        | CompressedAttention
        | RoutedAttention
        | ConvolvedAttention
        | ResidualConvolution
        | FeedForward
        | MixtureOfExperts
        | ChainedExperts
        | LowRank
        | PerLayerInput
        | HashedNgrams
        | Bridge
        | Linear
        | Program
    )
    input_norm: Norm | None = None
    input_scale: float | None = None
    output_norm: Norm | None = None
    share: str | None = None
    adapters: tuple[Adapter, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.name.isidentifier() or self.name in ("u", "v"):
            yield "name", "must be an identifier other than 'u' and 'v'"
        if self.adapters and self.share is None:
            yield "adapters", "need share: they tell one use of shared weights from another"
        known = projection_names(self.part)
        for target in (adapter.target for adapter in self.adapters):
            if target not in known:
                yield "adapters", f"name {target!r} (known: {', '.join(known)})"


@part
class Linear(Part):
    """A single projection to the model's width."""

    bias: bool = False


@part
class Step(Part):
    """Read, norm, branch, write. Writes happen in order: each sees what the one before it wrote.

    Where x is several streams, a `connection` turns them into the one u, and what is written to x back into them; a
    branch that reads them all needs none.
    """

    branches: tuple[Branch, ...]
    writes: tuple[Write, ...]
    read: Read = Read()
    norm: Norm | None = None
    connection: Connection | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [branch.name for branch in self.branches]
        written = {term.source for write in self.writes for term in write.terms}
        for name in names:
            if name not in written:
                yield "writes", f"drop the branch {name!r}: a term must name it"
        if not self.writes:
            yield "writes", "must not be empty"
        if self.norm and not self.branches and "v" not in written:
            yield "norm", "must be None where neither a branch nor a term reads v"
        if self.connection:
            if self.read.registers != ("x",):
                yield "read", "must be x where a connection reads the streams"
            if self.read.scale is not None:
                yield "read.scale", "must be None where a connection reads the streams"
            if [write.register for write in self.writes] != ["x"] or "x" in written:
                yield "writes", "must be one, to x and without x among its terms: the connection adds the streams"


@part
class Program(Part):
    """A list of steps. As a layer it works on the model's registers; as a branch on an x of its own.

    `share` names weights that other programs use too (loops are written out, one program per turn). No gradient goes
    back through what a `detached` one computes.
    """

    steps: tuple[Step, ...]
    share: str | None = None
    detached: bool = False

    def branches(self) -> Iterator[Branch]:
        """All branches, in order; a nested program's own branches are not among them."""
        for step in self.steps:
            yield from step.branches

    def all_branches(self, prefix: str = "") -> Iterator[tuple[str, Branch]]:
        """All branches with their paths, each before the branches of the program that it may hold."""
        for branch in self.branches():
            yield prefix + branch.name, branch
            if isinstance(branch.part, Program):
                yield from branch.part.all_branches(f"{prefix}{branch.name}.")

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [branch.name for branch in self.branches()]
        if not self.steps:
            yield "steps", "must not be empty"
        typed = any(write.dtype != "terms" for step in self.steps for write in step.writes)
        if typed and all(step.read.join != "attend" for step in self.steps):
            yield "steps", "write sums of another dtype, which nothing reads but attention over registers"
        if len(names) != len(set(names)):
            yield "steps", f"name a branch twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"


def only_reuses(program: Program) -> bool:
    """Whether a program's mixers all take keys and values that an earlier layer emits: it keeps none of its own."""
    mixers = [branch.part for _, branch in program.all_branches() if branch.part.role == "mixer"]
    return bool(mixers) and all(getattr(mixer, "reuse", None) for mixer in mixers)


def projection_names(value: Part, prefix: str = "") -> tuple[str, ...]:
    """The projections of a part that an adapter may name: packed ones together, a program's behind branch names."""
    if isinstance(value, Program):
        return tuple(n for b in value.branches() for n in projection_names(b.part, f"{prefix}{b.name}."))
    packing = getattr(value, "packing", ())
    packed = {role for each in packing for role in each.roles}
    single = [role for role in getattr(value, "projections", ()) if role not in packed]
    return tuple(prefix + name for name in [each.name for each in packing] + single)


def sequential_layer(
    *parts: tuple[str, Part],
    norm: Norm | None,
    output_norm: Norm | None = None,
    scale: float | None = None,
    sum_norm: Norm | None = None,
) -> Program:
    """One residual step after the other, all with the same norms: the layer of most decoders."""
    norms = {"norm": norm, "output_norm": output_norm, "sum_norm": sum_norm}
    return Program(steps=tuple(residual_step(name, part, scale=scale, **norms) for name, part in parts))


def parallel_layer(*parts: tuple[str, Part], norm: Norm | None, sum_order: tuple[str, ...]) -> Program:
    """One step whose branches read the same normed x; what they give and x are added as `sum_order` names them."""
    branches = tuple(Branch(name=name, part=part) for name, part in parts)  # type: ignore[arg-type]
    write = Write(terms=tuple(Term(source=source) for source in sum_order))
    return Program(steps=(Step(branches=branches, writes=(write,), norm=norm),))


def residual_step(
    name: str,
    part: Part,
    *,
    norm: Norm | None,
    output_norm: Norm | None = None,
    scale: float | None = None,
    sum_norm: Norm | None = None,
) -> Step:
    """x = sum_norm(x + scale · output_norm(part(norm(x)))): the step of nearly every layer."""
    branch = Branch(name=name, part=part, output_norm=output_norm)  # type: ignore[arg-type]
    terms = (Term(source="x"), Term(source=name, scale=scale))
    return Step(branches=(branch,), writes=(Write(terms=terms, norm=sum_norm),), norm=norm)
