"""Rotary position embedding: frequencies of every scaling, tables per call, and the rotation."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.position import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    SteppedScaling,
    YarnScaling,
)

Tables = tuple[Float[Tensor, "rows seq _"], Float[Tensor, "rows seq _"]]


def _plain(theta: float | Tensor, dims: int, dtype: torch.dtype = torch.float) -> Tensor:
    device = theta.device if isinstance(theta, Tensor) else None
    exponents = (torch.arange(0, dims, 2, dtype=torch.float, device=device) / dims).to(dtype)
    return 1.0 / (theta**exponents)


@singledispatch
def frequencies(scaling: Any, rope: Rope, head_dim: int) -> Float[Tensor, " half"]:
    """Inverse frequencies of a scaling; those of the plain rotation where there is none."""
    return _plain(rope.theta, rope.dims(head_dim))


@frequencies.register
def _(scaling: LinearScaling, rope: Rope, head_dim: int) -> Tensor:
    return _plain(rope.theta, rope.dims(head_dim)).div_(scaling.factor)


@frequencies.register
def _(scaling: DynamicScaling, rope: Rope, head_dim: int) -> Tensor:
    return dynamic_frequencies(scaling, rope, head_dim, length=scaling.context)


@frequencies.register
def _(scaling: SteppedScaling, rope: Rope, head_dim: int) -> Tensor:
    return _plain(rope.theta, rope.dims(head_dim))


def stepped_frequencies(
    scaling: SteppedScaling, rope: Rope, head_dim: int, *, lengths: Int[Tensor, " rows"]
) -> Float[Tensor, "rows one half"]:
    """NTK in steps, for rows of these lengths; bases are found in float64, as a Python number would be."""
    dims = rope.dims(head_dim)
    doublings = torch.ceil(torch.log2(lengths.double() / scaling.context) + 1)
    growth = (2**doublings - 1).clamp(min=1)
    return _plain((rope.theta * growth ** (dims / (dims - 2))).float()[:, None, None], dims)


def dynamic_frequencies(scaling: DynamicScaling, rope: Rope, head_dim: int, *, length: int | Tensor) -> Tensor:
    """Dynamic NTK for a call of `length` positions; a tensor computes in float32, as the reference's update does."""
    dims = rope.dims(head_dim)
    growth = (scaling.factor * length / scaling.context) - (scaling.factor - 1)
    return _plain(rope.theta * growth ** (dims / (dims - 2)), dims)


@frequencies.register
def _(scaling: Llama3Scaling, rope: Rope, head_dim: int) -> Tensor:
    plain = _plain(rope.theta, rope.dims(head_dim))
    low_wavelength = scaling.original_context / scaling.low_frequency_factor
    high_wavelength = scaling.original_context / scaling.high_frequency_factor
    wavelength = 2 * math.pi / plain
    scaled = torch.where(wavelength > low_wavelength, plain / scaling.factor, plain)
    smooth = (scaling.original_context / wavelength - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    blended = (1 - smooth) * scaled / scaling.factor + smooth * scaled
    medium = ~(wavelength < high_wavelength) * ~(wavelength > low_wavelength)
    return torch.where(medium, blended, scaled)


@frequencies.register
def _(scaling: YarnScaling, rope: Rope, head_dim: int) -> Tensor:
    dims = rope.dims(head_dim)

    def correction(rotations: float) -> float:
        return (dims * math.log(scaling.original_context / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low, high = correction(scaling.beta_fast), correction(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    if low == high:
        high += 0.001
    ramp = torch.clamp((torch.arange(dims // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    powers = rope.theta ** (torch.arange(0, dims, 2, dtype=torch.float) / dims)
    extrapolated, interpolated = 1.0 / powers, 1.0 / (scaling.factor * powers)
    keep = 1 - ramp
    return interpolated * (1 - keep) + extrapolated * keep


@frequencies.register
def _(scaling: LongRopeScaling, rope: Rope, head_dim: int) -> Tensor:
    return longrope_frequencies(scaling.short_factors, rope, head_dim)


def longrope_frequencies(factors: tuple[float, ...], rope: Rope, head_dim: int) -> Tensor:
    """LongRoPE with one set of factors."""
    dims = rope.dims(head_dim)
    exponents = torch.arange(0, dims, 2, dtype=torch.int64).float() / dims
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * rope.theta**exponents)


@frequencies.register
def _(scaling: ProportionalScaling, rope: Rope, head_dim: int) -> Tensor:
    angles = int(rope.fraction * head_dim // 2)
    rotated = 1.0 / (rope.theta ** (torch.arange(0, 2 * angles, 2, dtype=torch.int64).float() / head_dim))
    still = torch.zeros(head_dim // 2 - angles, dtype=torch.float32)
    return torch.cat((rotated, still)).div_(scaling.factor)


class UniversalRoPE(nn.Module):
    """Cos and sin for positions, and the rotation of queries and keys by them.

    Frequencies are kept in float32 outside the module's buffers: a cast of the model must not round them.
    """

    def __init__(self, part: Any, *, head_dim: int | None = None) -> None:
        super().__init__()
        if not isinstance(part, Rope):
            part, head_dim = _rope_of(part)
        assert head_dim is not None
        self.part: Rope = part
        self.head_dim = head_dim
        self.dims = part.dims(head_dim)
        if self.dims % 2:
            raise InvalidArchitecture(f"rope turns {self.dims} of {head_dim} dimensions: must be even")
        if isinstance(part.scaling, LongRopeScaling):
            for name in ("short_factors", "long_factors"):
                if len(getattr(part.scaling, name)) != self.dims // 2:
                    found = len(getattr(part.scaling, name))
                    raise InvalidArchitecture(f"LongRopeScaling.{name} holds {found} numbers: must be {self.dims // 2}")
        self.table_factor = getattr(part.scaling, "table_factor", 1.0)
        with torch.device("cpu"):  # whatever device the model is built on
            kept = {"initial": frequencies(part.scaling, part, head_dim)}
            if isinstance(part.scaling, LongRopeScaling):
                kept["long"] = longrope_frequencies(part.scaling.long_factors, part, head_dim)
        self._kept = {(name, made.device): made for name, made in kept.items()}

    def _frequencies(self, device: torch.device, name: str = "initial") -> Float[Tensor, " half"]:
        key = (name, device)
        if key not in self._kept:
            self._kept[key] = self._kept[name, torch.device("cpu")].to(device)
        return self._kept[key]

    def _frequencies_of_call(
        self, positions: Int[Tensor, "rows seq"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "*rows half"]:
        """Dynamic NTK and LongRoPE look at the furthest position of the call, NTK in steps at each row's length."""
        device, scaling = positions.device, self.part.scaling
        if isinstance(scaling, SteppedScaling):
            lengths = positions.amax(-1) + 1 if lengths is None else lengths
            stepped = stepped_frequencies(scaling, self.part, self.head_dim, lengths=lengths)
            return torch.where((lengths > scaling.context).any(), stepped, self._frequencies(device))
        if isinstance(scaling, DynamicScaling):
            length = torch.max(positions) + 1
            grown = dynamic_frequencies(scaling, self.part, self.head_dim, length=length).to(device)
            return torch.where(length > scaling.context, grown, self._frequencies(device))
        if isinstance(scaling, LongRopeScaling):
            beyond = torch.max(positions) + 1 > scaling.original_context
            return torch.where(beyond, self._frequencies(device, "long"), self._frequencies(device))
        return self._frequencies(device)

    def _table_factor_of_call(self, positions: Int[Tensor, "rows seq"]) -> float | Float[Tensor, ""]:
        """What cos and sin are multiplied by."""
        longer = getattr(self.part.scaling, "long_attention_factor", None)
        if longer is None:
            return self.table_factor
        beyond = torch.max(positions) + 1 > self.part.scaling.original_context  # type: ignore[union-attr]
        return torch.where(beyond, longer, self.table_factor)

    def _angles(
        self, positions: Int[Tensor, "rows seq"], dtype: torch.dtype, lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "rows seq half"]:
        if self.part.frequencies == "float64":
            exponents = torch.arange(0, self.dims, 2, dtype=torch.double, device=positions.device) / self.dims
            return positions[..., None].double() / self.part.theta**exponents
        return positions[..., None].float() * self._frequencies_of_call(positions, lengths)

    @torch.no_grad()
    def forward(
        self, positions: Int[Tensor, "rows seq"], dtype: torch.dtype, lengths: Int[Tensor, " batch"] | None = None
    ) -> Tables:
        """Cos and sin, [rows, seq, dims], in `dtype` (or float32 where the part keeps its tables wide).

        `lengths` are those of the rows at the first call, where that is not this one.
        """
        angles = self._angles(positions, dtype, lengths)
        angles = -angles if self.part.clockwise else angles
        if self.part.pairing == "interleaved":
            angles = torch.repeat_interleave(angles, 2, dim=-1)
        else:
            angles = torch.cat((angles, angles), dim=-1)
        if self.part.product == "complex64":
            turns = torch.polar(torch.ones_like(angles), angles)
            return turns.real * self.table_factor, turns.imag * self.table_factor
        factor = self._table_factor_of_call(positions)
        cos, sin = angles.cos().float() * factor, angles.sin().float() * factor
        kept = torch.float32 if self.part.table == "float32" else dtype
        return cos.to(kept), sin.to(kept)

    def rotate(
        self, query: Float[Tensor, "batch heads seq d"], key: Float[Tensor, "batch kv_heads seq d"], tables: Tables
    ) -> tuple[Float[Tensor, "batch heads seq d"], Float[Tensor, "batch kv_heads seq d"]]:
        """Queries and keys `turned`."""
        return self.turned(query, tables), self.turned(key, tables)

    def turned(
        self, x: Float[Tensor, "batch heads seq d"], tables: Tables, *, wide: bool = False
    ) -> Float[Tensor, "batch heads seq d"]:
        """Rotate queries or keys; dimensions beyond the tables pass through. A `wide` result is not rounded."""
        if self.part.over == "positions":
            tables = tables[0].unsqueeze(2), tables[1].unsqueeze(2)
            return self._turned(x.transpose(1, 2), *tables, wide=wide).transpose(1, 2)
        return self._turned(x, tables[0].unsqueeze(1), tables[1].unsqueeze(1), wide=wide)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor, *, wide: bool) -> Tensor:
        turned, rest = self._parted(x)
        dtype = turned.dtype
        if self.part.product == "complex64":
            pairs = torch.view_as_complex(turned.float().reshape(*turned.shape[:-1], -1, 2))
            out = torch.view_as_real(pairs * torch.complex(cos[..., ::2], sin[..., ::2])).flatten(3).type_as(turned)
            return self._joined(out, rest)
        if self.part.product == "float32":
            turned = turned.float()
        if self.part.pairing == "interleaved_to_half":
            half = cos.shape[-1] // 2
            even, odd = turned[..., 0::2], turned[..., 1::2]
            cos, sin = cos[..., :half], sin[..., :half]
            out = torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
        else:
            out = (turned * cos) + (self._quarter_turn(turned) * sin)
        return self._joined(out if wide else out.to(dtype), rest)

    def _parted(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The dimensions that turn, and those that do not."""
        if self.dims == x.shape[-1]:
            return x, None
        if self.part.part_rotated == "last":
            return x[..., -self.dims :], x[..., : -self.dims]
        return x[..., : self.dims], x[..., self.dims :]

    def _joined(self, turned: Tensor, rest: Tensor | None) -> Tensor:
        if rest is None:
            return turned
        return torch.cat([rest, turned] if self.part.part_rotated == "last" else [turned, rest], dim=-1)

    def _quarter_turn(self, x: Tensor) -> Tensor:
        if self.part.pairing == "interleaved":
            return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _rope_of(n: Any) -> tuple[Rope, int]:
    """The commonest RoPE of a whole n and the width of the head it turns."""
    for layer in n.layers:
        for branch in layer.branches():
            rope = getattr(branch.part, "rope", None)
            if rope is not None and rope == n._commonest("rope"):
                return rope, getattr(branch.part, "rope_dim", None) or branch.part.head_dim
    raise ValueError("this n rotates nothing: no layer has a rope")
