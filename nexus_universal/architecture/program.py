"""How parts are wired: registers, programs, steps, branches, and the ways a residual is read and written.

A layer is a program; a program is a list of steps over named registers. A step reads a vector, norms it, hands it to its
branches and writes ordered sums back:

    u = read(registers);  v = norm(u);  y_b = output_norm_b(f_b(input_scale_b · input_norm_b(v)))
    register = scale · norm( Σ in order of terms )

Registers that always exist: `x` (the residual) and `e` (the embedding's output). A term may also name `u`, `v` or a branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.mixers import (
    Attention,
    CompressedAttention,
    GatedDeltaRule,
    LatentAttention,
    LightningAttention,
    LowRank,
    StateSpace,
)
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class Read(Part):
    """What a step works on: a register, the ordered sum of several, or their concatenation."""

    registers: tuple[str, ...] = ("x",)
    join: Literal["sum", "concat"] = "sum"
    scale: float | None = None


@part
class Term(Part):
    """One summand of a write: a register, `u`, `v` or a branch, times a number."""

    source: str
    scale: float | None = None


@part
class Write(Part):
    """register = scale · norm(Σ terms): the terms are summed from the left, so their order is part of n."""

    terms: tuple[Term, ...]
    register: str = "x"
    scale: float | None = None
    norm: Norm | None = None
    layer_scale: bool = False


@part
class HyperConnection(Part):
    """Manifold-constrained hyper-connections over several residual streams (arXiv 2409.19606, DeepSeek-V4).

    u = Σ_j pre_j x_j;  x_j = post_j y + Σ_i comb_ij x_i, with pre, post, comb from the normed streams; comb is made doubly
    stochastic by `iterations` of Sinkhorn.
    """

    streams: int
    iterations: int
    norm: Norm
    eps: float


@part
class AltUp(Part):
    """Alternating updates (arXiv 2301.13310): predict all streams, run the program on one, correct all by its error."""

    streams: int
    active: int
    norm: Norm
    coefficient_clip: float | None = None


@part
class StreamSlice(Part):
    """Read one stream, add what is written to others."""

    read: int
    write: tuple[int, ...]
    read_scale: bool = False


Connection = HyperConnection | AltUp | StreamSlice


@part
class Adapter(Part):
    """A low-rank addition W + B·A that one use of shared weights has of its own (arXiv 2106.09685)."""

    role_name: str
    rank: int


@part
class Branch(Part):
    """One function of a step: a primitive, or a program over its own x.

    `share` names weights used by every branch with that name; `adapters` are this use's own low-rank additions.
    """

    name: str
    part: (
        Attention
        | LatentAttention
        | GatedDeltaRule
        | StateSpace
        | LightningAttention
        | CompressedAttention
        | RoutedAttention
        | FeedForward
        | MixtureOfExperts
        | LowRank
        | PerLayerInput
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


@part
class Linear(Part):
    """A single projection to `width`; None keeps the width of x."""

    width: int | None = None
    bias: bool = False


@part
class Step(Part):
    """Read, norm, branch, write. `connection` replaces plain reading and writing where there are several streams."""

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


@part
class Program(Part):
    """A list of steps. As a layer it works on the model's registers; as a branch on an x of its own.

    `share` names weights that other programs use too (loops are written out, one program per turn).
    """

    steps: tuple[Step, ...]
    share: str | None = None

    def branches(self) -> Iterator[Branch]:
        """All branches, in order; a nested program's own branches are not among them."""
        for step in self.steps:
            yield from step.branches

    def problems(self) -> Iterator[tuple[str, str]]:
        names = [branch.name for branch in self.branches()]
        if len(names) != len(set(names)):
            yield "steps", f"name a branch twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}"


def residual_step(name: str, part: Part, *, norm: Norm | None, output_norm: Norm | None = None) -> Step:
    """x = x + output_norm(part(norm(x))): the step of nearly every layer."""
    branch = Branch(name=name, part=part, output_norm=output_norm)  # type: ignore[arg-type]
    return Step(branches=(branch,), writes=(Write(terms=(Term(source="x"), Term(source=name))),), norm=norm)
