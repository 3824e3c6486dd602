"""What a built block runs: branches, writes and steps over registers, and how each kind of module is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.program import Read
from nexus_universal.layers.call import Call

Registers = dict[str, Float[Tensor, "batch seq ..."]]


def alone(module: nn.Module, v: Tensor, call: Call, registers: Registers, key: str) -> Tensor:
    """Call a module with its vector alone."""
    return module(v)


def with_call(module: nn.Module, v: Tensor, call: Call, registers: Registers, key: str) -> Tensor:
    """Call a mixer without a state."""
    return module(v, call)


def with_state(module: nn.Module, v: Tensor, call: Call, registers: Registers, key: str) -> Tensor:
    """Call a mixer with the state that the cache, if there is one, keeps for it."""
    return module(v, call, call.cache[key] if call.cache is not None else None)


def with_tokens(module: nn.Module, v: Tensor, call: Call, registers: Registers, key: str) -> Tensor:
    """Call a part that may look something up by token."""
    return module(v, call.tokens)


def as_program(module: nn.Module, v: Tensor, call: Call, registers: Registers, key: str) -> Tensor:
    """Run a nested program: its x is its own, and the block's other registers can be read."""
    return module({**registers, "x": v}, call)["x"]


@dataclass(slots=True)
class WiredBranch:
    """A branch: its module, and what stands before and behind it."""

    name: str
    module: nn.Module
    key: str
    feed: Callable[..., Tensor]
    input_norm: nn.Module | None
    input_scale: float | None
    output_norm: nn.Module | None

    def __call__(self, v: Tensor, call: Call, registers: Registers) -> Tensor:
        if self.input_norm is not None:
            v = self.input_norm(v)
        if self.input_scale is not None:
            v = v * self.input_scale
        y = self.feed(self.module, v, call, registers, self.key)
        return y if self.output_norm is None else self.output_norm(y)


@dataclass(slots=True)
class WiredWrite:
    """An ordered sum into a register."""

    register: str
    terms: tuple[tuple[str, float | None, nn.Module | None], ...]
    divisor: float | None
    scale: float | None
    norm: nn.Module | None
    layer_scale: nn.Module | None
    dtype: str = "terms"

    def __call__(self, values: Registers, dtype: torch.dtype) -> Tensor:
        """The sum, in the model's `dtype` where that is asked for."""
        summands = (_summand(values, *term) for term in self.terms)
        if self.dtype == "float32":
            summands = (summand.float() for summand in summands)
        total = next(summands)
        for summand in summands:
            total = total + summand
        if self.dtype == "model":
            total = total.to(dtype)
        if self.divisor is not None:
            total = total / self.divisor
        if self.norm is not None:
            total = self.norm(total)
        if self.scale is not None:
            total = total * self.scale
        return total if self.layer_scale is None else self.layer_scale(total)


def _summand(values: Registers, source: str, scale: float | None, gain: nn.Module | None) -> Tensor:
    value = values[source] if scale is None else values[source] * scale
    return value if gain is None else gain(value)


@dataclass
class WiredStep:
    """A step over one stream: read, norm, branches, writes."""

    read: Read
    norm: nn.Module | None
    branches: list[WiredBranch]
    writes: list[WiredWrite]
    narrows: bool
    attended: nn.Module | None = None

    def __call__(self, registers: Registers, call: Call) -> None:
        values = self._values(self._read(registers), registers, call)
        for write in self.writes:
            registers[write.register] = values[write.register] = write(values, call.dtype)

    def _values(self, u: Tensor, registers: Registers, call: Call) -> Registers:
        """The registers, u, v, and what every branch makes of v."""
        v = u.to(call.dtype) if self.narrows else u
        v = v if self.norm is None else self.norm(v)
        if self.attended is not None and self.norm is not None:
            v = v.to(call.dtype)
        values = {**registers, "u": u, "v": v}
        for branch in self.branches:
            values[branch.name] = branch(v, call, registers)
        return values

    def _read(self, registers: Registers) -> Tensor:
        read = self.read
        if self.attended is not None:
            u = self.attended([registers[name] for name in read.registers])
            return u if read.scale is None else u * read.scale
        u = registers[read.registers[0]]
        if len(read.registers) > 1 and read.join == "concat":
            u = torch.cat([registers[name] for name in read.registers], dim=-1)
        else:
            for name in read.registers[1:]:
                u = u + registers[name]
        return u if read.scale is None else u * read.scale


@dataclass
class ConnectedStep(WiredStep):
    """A step over several streams: it reads one vector from them, and its one write goes back into all."""

    connection: Any = None

    def __call__(self, registers: Registers, call: Call) -> None:
        u, kept = self.connection.read(registers["x"])
        registers["x"] = self.connection.write(kept, self.writes[0](self._values(u, registers, call), call.dtype))


class LayerScale(nn.Module):
    """Times a number that the checkpoint holds for this layer; no parameter, and rounded as what it multiplies."""

    value: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.empty(1))

    def start(self, text: Text, *, depth: int) -> None:
        """The identity."""
        nn.init.ones_(self.value)

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return x * self.value.to(x.dtype)
