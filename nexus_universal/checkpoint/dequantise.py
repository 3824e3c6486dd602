"""A quantised checkpoint as if it were plain: weights are dequantised as they are read, scales are out of sight."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.files import TensorInfo, TensorStore
from nexus_universal.checkpoint.quantisation import BlockScaled, Microscaled, Quantisation

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The sixteen numbers of four bits."""

EXPONENT_BIAS = 127
PACKED_BYTES = 16
BAND = 256
"""Rows that are dequantised at a time: what lies in float32 meanwhile stays small."""


class DequantisedStore(TensorStore):
    """A store whose quantised weights stand under their plain names, with the shape and dtype that they are read in.

    Raises:
        CheckpointError: a scale without its weight, a weight without its scale, or one that does not fit the other.
    """

    def __init__(self, stored: TensorStore, rule: Quantisation, *, dtype: torch.dtype) -> None:
        self.stored, self.rule = stored, rule
        self.pairs = _pairs(stored.infos, rule)
        infos = dict(stored.infos)
        passed_over: dict[str, str] = {}
        for plain, (values, scales) in self.pairs.items():
            shape = _plain_shape(values, infos[values], scales, infos[scales], rule)
            of_values, of_scales = infos.pop(values), infos.pop(scales)
            infos[plain] = replace(of_values, shape=shape, dtype=dtype, nbytes=of_values.nbytes + of_scales.nbytes)
            of_activations = plain.removesuffix("weight") + "activation_scale"
            if infos.pop(of_activations, None) is not None:
                passed_over[of_activations] = "quantises activations, and dequantised weights take them as they are"
        super().__init__(infos, stored.metadata, passed_over=passed_over)

    def read(self, name: str) -> Tensor:
        """The tensor: memory-mapped where it is plain, else dequantised into memory of its own."""
        if name not in self.pairs:
            return self.stored.read(name)
        info = self.infos[name]
        out = torch.empty(info.shape, dtype=info.dtype)
        self.read_into(name, out)
        return out

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a contiguous slice. A product is taken in float32 and rounded once, to the dtype of `target`."""
        if name not in self.pairs:
            self.stored.read_into(name, target)
            return
        values, scales = map(self.stored.read, self.pairs[name])
        if isinstance(self.rule, Microscaled):
            unpack(values, scales, target)
        else:
            scale_blocks(values, scales, target, block=self.rule.block)


def scale_blocks(
    values: Float[Tensor, "*experts rows columns"],
    scales: Shaped[Tensor, "*grid"],
    target: Float[Tensor, "*experts rows columns"],
    *,
    block: tuple[int, int] | None,
) -> None:
    """`target` = value × scale of its block. Scales that are bytes are exponents of two."""
    rows, columns = values.shape[-2:]
    height, width = block or (rows, columns)
    if scales.dtype == torch.uint8:
        factors = (scales.float() - EXPONENT_BIAS).exp2()
    else:
        factors = scales.float()
    factors = factors.reshape(-1, math.ceil(rows / height), math.ceil(columns / width))
    for matrix, grid, out in zip(
        values.reshape(-1, rows, columns), factors, target.view(-1, rows, columns), strict=True
    ):
        grid = grid.repeat_interleave(width, dim=1)[:, :columns]
        for start in range(0, rows, BAND):
            band = matrix[start : start + BAND].float()
            out[start : start + BAND] = band.mul_(grid[torch.arange(start, start + len(band)) // height])


def unpack(
    values: UInt8[Tensor, "experts d_out blocks bytes"],
    scales: UInt8[Tensor, "experts d_out blocks"],
    target: Float[Tensor, "experts d_in d_out"],
) -> None:
    """`target` = number × 2^(scale − 127), the low half of a byte first, transposed as experts are multiplied."""
    numbers = torch.tensor(E2M1)
    for packed, exponents, out in zip(values, scales.int() - EXPONENT_BIAS, target, strict=True):
        codes = torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2).int()
        out.copy_(torch.ldexp(numbers[codes], exponents.unsqueeze(-1)).flatten(1).t())


def _pairs(infos: dict[str, TensorInfo], rule: Quantisation) -> dict[str, tuple[str, str]]:
    """Plain name → its two tensors.

    Raises:
        CheckpointError: one of the two is missing.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for name in infos:
        if name.endswith(rule.scales):
            plain = name.removesuffix(rule.scales)
            pairs[plain] = (plain + rule.values, name)
        elif _is_quantised(name, infos[name], rule):
            plain = name.removesuffix(rule.values)
            pairs[plain] = (name, plain + rule.scales)
    for values, scales in pairs.values():
        for name, other in ((values, scales), (scales, values)):
            if name not in infos:
                raise CheckpointError(f"{other} stands alone: {name} is missing")
    return pairs


def _is_quantised(name: str, info: TensorInfo, rule: Quantisation) -> bool:
    return name.endswith(rule.values) if rule.values else info.dtype.itemsize == 1 and info.dtype.is_floating_point


def _plain_shape(
    values: str, of_values: TensorInfo, scales: str, of_scales: TensorInfo, rule: Quantisation
) -> tuple[int, ...]:
    """The shape of a dequantised weight.

    Raises:
        CheckpointError: its two tensors are not of the kind, or not of shapes that belong together.
    """
    wanted = torch.float8_e4m3fn if isinstance(rule, BlockScaled) else torch.uint8
    if of_values.dtype != wanted:
        raise CheckpointError(f"{values} is of {of_values.dtype}, but {rule.method} with {scales} asks for {wanted}")
    shape = of_values.shape
    if isinstance(rule, Microscaled):
        if len(shape) != 4 or shape[-1] != PACKED_BYTES:
            raise CheckpointError(f"{values} has shape {shape}, must be (experts, out, blocks, {PACKED_BYTES})")
        plain, grids, kind = (shape[0], 2 * PACKED_BYTES * shape[2], shape[1]), [shape[:-1]], "one per block"
    else:
        if len(shape) < 2:
            raise CheckpointError(f"{values} has shape {shape}, must be a matrix (or one for each expert)")
        height, width = rule.block or shape[-2:]
        plain, kind = shape, "one per matrix" if rule.block is None else f"blocks of {height} × {width}"
        grids = [(*shape[:-2], math.ceil(shape[-2] / height), math.ceil(shape[-1] / width))]
        if rule.block is None and len(shape) == 2:
            grids += [(), (1,)]
    if of_scales.shape not in grids:
        raise CheckpointError(
            f"{scales} has shape {of_scales.shape}, but {values} of shape {shape} asks for {grids[0]} ({kind})"
        )
    is_scale = of_scales.dtype == torch.uint8 or (isinstance(rule, BlockScaled) and of_scales.dtype.is_floating_point)
    if not is_scale:
        raise CheckpointError(f"{scales} is of {of_scales.dtype}, which is no scale of {rule.method}")
    return plain
