"""The block: a program of steps over registers, its wiring settled when it is built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention, LowRank
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.program import Adapter, Branch, Linear, Program, Step, Term, Write
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
from nexus_universal.cache import State
from nexus_universal.layers.attended_read import AttendedRead
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.bridge import UniversalBridge
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.chained_experts import UniversalChainedExperts
from nexus_universal.layers.channel_delta import UniversalChannelDelta
from nexus_universal.layers.channel_state_space import UniversalChannelStateSpace
from nexus_universal.layers.compressed_attention import UniversalCompressedAttention
from nexus_universal.layers.connections import connection_of
from nexus_universal.layers.convolved_attention import UniversalConvolvedAttention
from nexus_universal.layers.decayed_average import UniversalDecayedAverage, UniversalShiftedFeedForward
from nexus_universal.layers.experts import UniversalExperts
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.layers.gain import Gain
from nexus_universal.layers.gated_delta import UniversalGatedDelta
from nexus_universal.layers.headed_state_space import UniversalHeadedStateSpace
from nexus_universal.layers.latent_attention import UniversalLatentAttention
from nexus_universal.layers.lightning_attention import UniversalLightningAttention
from nexus_universal.layers.linear import Linear as Projection
from nexus_universal.layers.linear_recurrence import UniversalGatedLinearRecurrence
from nexus_universal.layers.low_rank import UniversalLowRank
from nexus_universal.layers.matrix_memory import UniversalMatrixMemory
from nexus_universal.layers.ngrams import UniversalHashedNgrams
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.per_layer import UniversalPerLayerInput
from nexus_universal.layers.residual_convolution import UniversalResidualConvolution
from nexus_universal.layers.routed_attention import UniversalRoutedAttention
from nexus_universal.layers.sharing import Shares, adapted
from nexus_universal.layers.short_convolution import UniversalShortConvolution
from nexus_universal.layers.state_space import UniversalStateSpace
from nexus_universal.layers.steps import (
    ConnectedStep,
    LayerScale,
    Registers,
    WiredBranch,
    WiredStep,
    WiredWrite,
    alone,
    as_program,
    with_call,
    with_state,
    with_tokens,
)


@dataclass(frozen=True)
class Place:
    """Where a part is built: what its module may need to know of its surroundings.

    It reads vectors of `width`, and gives those of `d_model`. `like` is the module whose weights it uses, where it
    shares them, and `adapters` are additions of its own to them.
    """

    d_model: int
    width: int
    layer_index: int
    plan: CallPlan
    path: str
    shares: Shares
    like: nn.Module | None = None
    adapters: tuple[Adapter, ...] = ()


READS_ANY_WIDTH = (Attention, Linear, Program)
"""Parts whose module may read vectors that are wider than the model's."""

MODULES: dict[type, Callable[[Any, Place], nn.Module]] = {
    Attention: lambda part, at: UniversalAttention(
        part, d_model=at.d_model, d_in=at.width, layer_index=at.layer_index, plan=at.plan, key=at.path
    ),
    LatentAttention: lambda part, at: UniversalLatentAttention(part, d_model=at.d_model, plan=at.plan, key=at.path),
    GatedDeltaRule: lambda part, at: (UniversalGatedDelta if part.decay == "head" else UniversalChannelDelta)(
        part, d_model=at.d_model, plan=at.plan
    ),
    StateSpace: lambda part, at: UniversalStateSpace(part, d_model=at.d_model, plan=at.plan),
    ShortConvolution: lambda part, at: UniversalShortConvolution(part, d_model=at.d_model, plan=at.plan),
    ChannelStateSpace: lambda part, at: (UniversalHeadedStateSpace if part.heads else UniversalChannelStateSpace)(
        part, d_model=at.d_model, plan=at.plan
    ),
    GatedLinearRecurrence: lambda part, at: UniversalGatedLinearRecurrence(part, d_model=at.d_model, plan=at.plan),
    LightningAttention: lambda part, at: UniversalLightningAttention(
        part, d_model=at.d_model, layer_index=at.layer_index, plan=at.plan
    ),
    DecayedAverage: lambda part, at: UniversalDecayedAverage(
        part, d_model=at.d_model, layer_index=at.layer_index, plan=at.plan
    ),
    ShiftedFeedForward: lambda part, at: UniversalShiftedFeedForward(
        part, d_model=at.d_model, layer_index=at.layer_index, plan=at.plan
    ),
    MatrixMemory: lambda part, at: UniversalMatrixMemory(part, d_model=at.d_model, plan=at.plan),
    FeedForward: lambda part, at: UniversalFeedForward(part, d_model=at.d_model),
    ConvolvedAttention: lambda part, at: UniversalConvolvedAttention(
        part, d_model=at.d_model, plan=at.plan, key=at.path
    ),
    ChainedExperts: lambda part, at: UniversalChainedExperts(part, d_model=at.d_model),
    MixtureOfExperts: lambda part, at: UniversalExperts(part, d_model=at.d_model),
    RoutedAttention: lambda part, at: UniversalRoutedAttention(part, d_model=at.d_model, plan=at.plan, key=at.path),
    CompressedAttention: lambda part, at: UniversalCompressedAttention(
        part, d_model=at.d_model, plan=at.plan, key=at.path
    ),
    ResidualConvolution: lambda part, at: UniversalResidualConvolution(part, d_model=at.d_model, plan=at.plan),
    LowRank: lambda part, at: UniversalLowRank(part, d_model=at.d_model),
    PerLayerInput: lambda part, at: UniversalPerLayerInput(part, d_model=at.d_model, layer_index=at.layer_index),
    HashedNgrams: lambda part, at: UniversalHashedNgrams(part, d_model=at.d_model, plan=at.plan),
    Bridge: lambda part, at: UniversalBridge(part, d_model=at.d_model, plan=at.plan, key=at.path),
    Linear: lambda part, at: Projection(at.width, at.d_model, bias=part.bias),
    Program: lambda part, at: UniversalTransformerBlock(
        part,
        d_model=at.d_model,
        width=at.width,
        layer_index=at.layer_index,
        plan=at.plan,
        path=at.path,
        shares=at.shares,
        like=at.like,
        adapters=at.adapters,
    ),
}
"""The module of each part. A primitive adds one entry here."""


FEEDS: dict[type, Callable[..., Tensor]] = {
    MixtureOfExperts: with_tokens,
    PerLayerInput: with_call,
    ChainedExperts: with_call,
    HashedNgrams: with_state,
    Bridge: with_state,
    Program: as_program,
}
"""What a part's module is called with; where nothing is said a mixer gets its state, and others their vector alone."""


class UniversalTransformerBlock(nn.Module):
    """One layer: reads, norms, branches and ordered sums as its program says.

    Children are named by role: a branch by its name, the norm before a step `<first branch>_norm`, norms of a branch
    `<branch>_input_norm` and `<branch>_output_norm`, the norm of a write `<first branch>_<register>_write_norm`. Where
    a program shares its weights, they are `like`'s.

    Example:
        >>> UniversalTransformerBlock(n, layer_index=0)(torch.randn(1, 5, n.d_hidden)).shape
        torch.Size([1, 5, 1024])
    """

    def __init__(
        self,
        program: Any,
        *,
        d_model: int | None = None,
        width: int | None = None,
        layer_index: int = 0,
        plan: CallPlan | None = None,
        path: str | None = None,
        shares: Shares | None = None,
        like: nn.Module | None = None,
        adapters: tuple[Adapter, ...] = (),
    ) -> None:
        super().__init__()
        if not isinstance(program, Program):
            plan = plan or CallPlan(wide=program.embedding.dtype != "model")
            program, d_model = program.layers[layer_index], program.d_hidden
        assert d_model is not None
        self.program: Program = program
        self.plan = plan or CallPlan()
        self.d_model = d_model
        self.layer_index = layer_index
        self.path = path or f"layers.{layer_index}"
        self.standalone = path is None
        shares = shares or Shares()
        like = like or shares.find(program.share)
        at = Place(
            d_model=d_model,
            width=width or d_model,
            layer_index=layer_index,
            plan=self.plan,
            path=self.path,
            shares=shares,
            like=like,
            adapters=adapters,
        )
        widths = defaultdict(lambda: d_model, x=at.width)
        self._steps = [self._build_step(step, at, widths) for step in program.steps]
        shares.keep(program.share, self)

    def _build_step(self, step: Step, at: Place, widths: dict[str, int]) -> WiredStep:
        width = step.read.width(widths)
        anchor = step.branches[0].name if step.branches else "step"
        norm = self._norm(f"{anchor}_norm", step.norm, width, at)
        branches = [self._build_branch(branch, replace(at, width=width)) for branch in step.branches]
        for write in step.writes:
            widths[write.register] = {**widths, "u": width, "v": width}.get(write.terms[0].source, self.d_model)
        writes = [self._build_write(write, anchor, at) for write in step.writes]
        wired = (step.read, norm, branches, writes, self.plan.wide)
        if step.read.join == "attend":
            attended = self._child(f"{anchor}_read", lambda: AttendedRead(queries=step.read.queries, width=width), at)
            return WiredStep(*wired, attended=attended)
        part = step.connection
        if part is None:
            return WiredStep(*wired)
        return ConnectedStep(
            *wired, connection=self._child(f"{anchor}_connection", lambda: connection_of(part, d_model=width), at)
        )

    def _build_write(self, write: Write, anchor: str, at: Place) -> WiredWrite:
        name = f"{anchor}_{write.register}"
        return WiredWrite(
            register=write.register,
            terms=tuple((term.source, term.scale, self._gain(name, term, at)) for term in write.terms),
            divisor=write.divisor,
            scale=write.scale,
            norm=self._norm(f"{name}_write_norm", write.norm, self.d_model, at),
            layer_scale=self._child(f"{name}_scale", LayerScale, at) if write.layer_scale else None,
            dtype=write.dtype,
        )

    def _gain(self, name: str, term: Term, at: Place) -> nn.Module | None:
        if term.gain == "none":
            return None
        return self._child(
            f"{name}_{term.source}_gain",
            lambda: Gain(1 if term.gain == "number" else self.d_model, shifted=term.gain == "shift_scale"),
            at,
        )

    def _build_branch(self, branch: Branch, at: Place) -> WiredBranch:
        part, key = branch.part, f"{at.path}.{branch.name}"
        if type(part) not in MODULES:
            known = ", ".join(part.__name__ for part in MODULES)
            raise UnsupportedPart(f"no module computes {type(part).__name__} yet (computed: {known})")
        if at.width != at.d_model and not isinstance(part, READS_ANY_WIDTH):
            raise UnsupportedPart(
                f"no module computes {type(part).__name__} of vectors of {at.width} yet (computed: {at.d_model})"
            )
        module = self._build_module(branch, replace(at, path=key))
        self.add_module(branch.name, module)
        if part.role == "mixer":
            feed = with_call if module.new_state() is None else with_state  # type: ignore[operator]
        else:
            feed = FEEDS.get(type(part), alone)
        return WiredBranch(
            name=branch.name,
            module=module,
            key=key,
            feed=feed,
            input_norm=self._norm(f"{branch.name}_input_norm", branch.input_norm, at.width, at),
            input_scale=branch.input_scale,
            output_norm=self._norm(f"{branch.name}_output_norm", branch.output_norm, self.d_model, at),
        )

    def _build_module(self, branch: Branch, at: Place) -> nn.Module:
        """The module of a branch: its own, that of a name, or that of a name with adapters of this use."""
        part, make = branch.part, MODULES[type(branch.part)]
        shared = at.shares.find(branch.share) or (getattr(at.like, branch.name) if at.like else None)
        if shared is None and branch.share is None:
            return make(part, replace(at, like=None))
        if shared is None:
            shared = make(part, replace(at, like=None))
            at.shares.keep(branch.share, shared)
            if not branch.adapters:
                return shared
        prefix = f"{branch.name}."
        inherited = tuple(
            replace(adapter, target=adapter.target.removeprefix(prefix))
            for adapter in at.adapters
            if adapter.target.startswith(prefix)
        )
        at = replace(at, like=shared, adapters=branch.adapters or inherited)
        if branch.adapters:
            at.shares.uses += 1
        if isinstance(part, Program):  # it has places of its own for its states
            return make(part, at)
        return adapted(shared, at.adapters, d_in=at.width, use=at.shares.uses - 1) if at.adapters else shared

    def _norm(self, name: str, part: Any, width: int, at: Place) -> nn.Module | None:
        return None if part is None else self._child(name, lambda: UniversalNorm.of(part, width), at)

    def _child(self, name: str, make: Callable[[], nn.Module], at: Place) -> nn.Module:
        if hasattr(self, name):
            raise UnsupportedPart(f"{self.path}: two norms would be named {name!r}; name the steps' branches apart")
        module = getattr(at.like, name) if at.like else make()
        self.add_module(name, module)
        return module

    def new_states(self) -> dict[str, State]:
        """Empty states of all mixers in this block that have one, by their place."""
        states: dict[str, State] = {}
        for step in self._steps:
            for branch in step.branches:
                if branch.feed is with_state:
                    states[branch.key] = branch.module.new_state()  # type: ignore[operator]
                elif isinstance(branch.module, UniversalTransformerBlock):
                    states.update(branch.module.new_states())
        return states

    def forward(self, registers: Any, call: Call | None = None) -> Any:
        """Run the steps. Given registers (a dict) it returns them; given x alone it returns x."""
        alone = isinstance(registers, Tensor)
        values: Registers = {"x": registers, "e": registers} if alone else dict(registers)
        call = call or self.plan.begin(values["x"])
        if self.program.detached:
            with torch.no_grad():
                self._run(values, call)
        else:
            self._run(values, call)
        return values["x"] if alone else values

    def _run(self, values: Registers, call: Call) -> None:
        for step in self._steps:
            step(values, call)
