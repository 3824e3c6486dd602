"""The block: a program of steps over registers, its wiring settled when it is built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, GatedDeltaRule, LatentAttention, StateSpace
from nexus_universal.architecture.program import Branch, Program, Read, Step
from nexus_universal.cache import State
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.experts import UniversalExperts
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.layers.gated_delta import UniversalGatedDelta
from nexus_universal.layers.latent_attention import UniversalLatentAttention
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.state_space import UniversalStateSpace

Registers = dict[str, Float[Tensor, "batch seq width"]]


@dataclass(frozen=True)
class Place:
    """Where a part is built: what its module may need to know of its surroundings."""

    d_model: int
    layer_index: int
    plan: CallPlan
    path: str


MODULES: dict[type, Callable[[Any, Place], nn.Module]] = {
    Attention: lambda part, at: UniversalAttention(
        part, d_model=at.d_model, layer_index=at.layer_index, plan=at.plan, key=at.path
    ),
    LatentAttention: lambda part, at: UniversalLatentAttention(part, d_model=at.d_model, plan=at.plan, key=at.path),
    GatedDeltaRule: lambda part, at: UniversalGatedDelta(part, d_model=at.d_model, plan=at.plan, key=at.path),
    StateSpace: lambda part, at: UniversalStateSpace(part, d_model=at.d_model, plan=at.plan),
    FeedForward: lambda part, at: UniversalFeedForward(part, d_model=at.d_model),
    MixtureOfExperts: lambda part, at: UniversalExperts(part, d_model=at.d_model),
    Program: lambda part, at: UniversalTransformerBlock(
        part, d_model=at.d_model, layer_index=at.layer_index, plan=at.plan, path=at.path
    ),
}
"""The module of each part. A primitive adds one entry here."""


@dataclass(slots=True)
class _Branch:
    name: str
    module: nn.Module
    key: str | None
    input_norm: nn.Module | None
    input_scale: float | None
    output_norm: nn.Module | None
    is_program: bool

    def __call__(self, v: Tensor, call: Call, registers: Registers) -> Tensor:
        if self.input_norm is not None:
            v = self.input_norm(v)
        if self.input_scale is not None:
            v = v * self.input_scale
        if self.key is not None:
            y = self.module(v, call, call.cache[self.key] if call.cache is not None else None)
        else:
            y = self.module({**registers, "x": v}, call)["x"] if self.is_program else self.module(v)
        return y if self.output_norm is None else self.output_norm(y)


@dataclass(slots=True)
class _Write:
    register: str
    terms: tuple[tuple[str, float | None], ...]
    divisor: float | None
    scale: float | None
    norm: nn.Module | None

    def __call__(self, values: Registers) -> Tensor:
        source, scale = self.terms[0]
        total = values[source] if scale is None else values[source] * scale
        for source, scale in self.terms[1:]:
            total = total + (values[source] if scale is None else values[source] * scale)
        if self.divisor is not None:
            total = total / self.divisor
        if self.norm is not None:
            total = self.norm(total)
        return total if self.scale is None else total * self.scale


@dataclass(slots=True)
class _Step:
    read: Read
    norm: nn.Module | None
    branches: list[_Branch]
    writes: list[_Write]
    narrows: bool

    def __call__(self, registers: Registers, call: Call) -> None:
        u = self._read(registers)
        v = u.to(call.dtype) if self.narrows else u
        v = v if self.norm is None else self.norm(v)
        values = {**registers, "u": u, "v": v}
        for branch in self.branches:
            values[branch.name] = branch(v, call, registers)
        for write in self.writes:
            registers[write.register] = values[write.register] = write(values)

    def _read(self, registers: Registers) -> Tensor:
        read = self.read
        u = registers[read.registers[0]]
        if len(read.registers) > 1 and read.join == "concat":
            u = torch.cat([registers[name] for name in read.registers], dim=-1)
        else:
            for name in read.registers[1:]:
                u = u + registers[name]
        return u if read.scale is None else u * read.scale


class UniversalTransformerBlock(nn.Module):
    """One layer: reads, norms, branches and ordered sums as its program says.

    Children are named by role: a branch by its name, the norm before a step `<first branch>_norm`, norms of a branch
    `<branch>_input_norm` and `<branch>_output_norm`, the norm of a write `<first branch>_<register>_write_norm`.

    Example:
        >>> UniversalTransformerBlock(n, layer_index=0)(torch.randn(1, 5, n.d_hidden)).shape
        torch.Size([1, 5, 1024])
    """

    def __init__(
        self,
        program: Any,
        *,
        d_model: int | None = None,
        layer_index: int = 0,
        plan: CallPlan | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(program, Program):
            plan = plan or CallPlan(wide=program.embedding.dtype == "float32")
            program, d_model = program.layers[layer_index], program.d_hidden
        assert d_model is not None
        if program.share is not None:
            raise UnsupportedPart(f"no module computes Program.share = {program.share!r} yet (computed: None)")
        self.program: Program = program
        self.plan = plan or CallPlan()
        self.d_model = d_model
        self.layer_index = layer_index
        self.path = path or f"layers.{layer_index}"
        self.standalone = path is None
        self._steps = [self._build_step(step) for step in program.steps]

    def _build_step(self, step: Step) -> _Step:
        if step.connection is not None:
            name = type(step.connection).__name__
            raise UnsupportedPart(f"no module computes {name} yet (a step may have connection = None)")
        width = self.d_model * (len(step.read.registers) if step.read.join == "concat" else 1)
        anchor = step.branches[0].name if step.branches else "step"
        norm = self._norm(f"{anchor}_norm", step.norm, width)
        branches = [self._build_branch(branch, width) for branch in step.branches]
        writes = []
        for write in step.writes:
            if write.layer_scale:
                raise UnsupportedPart("no module computes Write.layer_scale = True yet (computed: False)")
            write_norm = self._norm(f"{anchor}_{write.register}_write_norm", write.norm, self.d_model)
            terms = tuple((term.source, term.scale) for term in write.terms)
            writes.append(_Write(write.register, terms, write.divisor, write.scale, write_norm))
        return _Step(step.read, norm, branches, writes, narrows=self.plan.wide)

    def _build_branch(self, branch: Branch, width: int) -> _Branch:
        if branch.share is not None:
            raise UnsupportedPart(f"no module computes Branch.share = {branch.share!r} yet (computed: None)")
        make = MODULES.get(type(branch.part))
        if make is None:
            known = ", ".join(part.__name__ for part in MODULES)
            raise UnsupportedPart(f"no module computes {type(branch.part).__name__} yet (computed: {known})")
        key = f"{self.path}.{branch.name}"
        module = make(branch.part, Place(d_model=width, layer_index=self.layer_index, plan=self.plan, path=key))
        self.add_module(branch.name, module)
        return _Branch(
            name=branch.name,
            module=module,
            key=key if branch.part.role == "mixer" else None,
            input_norm=self._norm(f"{branch.name}_input_norm", branch.input_norm, width),
            input_scale=branch.input_scale,
            output_norm=self._norm(f"{branch.name}_output_norm", branch.output_norm, self.d_model),
            is_program=isinstance(branch.part, Program),
        )

    def _norm(self, name: str, part: Any, width: int) -> nn.Module | None:
        if part is None:
            return None
        if hasattr(self, name):
            raise UnsupportedPart(f"{self.path}: two norms would be named {name!r}; name the steps' branches apart")
        module = UniversalNorm.of(part, width)
        self.add_module(name, module)
        return module

    def new_states(self) -> dict[str, State]:
        """Empty states of all mixers in this block, by their place."""
        states: dict[str, State] = {}
        for step in self._steps:
            for branch in step.branches:
                if branch.key is not None:
                    states[branch.key] = branch.module.new_state()  # type: ignore[operator]
                elif isinstance(branch.module, UniversalTransformerBlock):
                    states.update(branch.module.new_states())
        return states

    def forward(self, registers: Any, call: Call | None = None) -> Any:
        """Run the steps. Given registers (a dict) it returns them; given x alone it returns x."""
        alone = isinstance(registers, Tensor)
        values: Registers = {"x": registers, "e": registers} if alone else dict(registers)
        call = call or self.plan.begin(values["x"])
        for step in self._steps:
            step(values, call)
        return values["x"] if alone else values
