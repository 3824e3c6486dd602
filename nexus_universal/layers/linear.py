"""Linear projections, alone or several roles packed into one matrix product."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.mixers import Packed


class Linear(nn.Linear):
    """`nn.Linear` that leaves its weights uninitialised: they are loaded, or initialised from n as a whole.

    `late_bias` adds the bias to the finished product, a rounding more than torch's own kernel does.
    """

    swift = False

    def __init__(self, d_in: int, d_out: int, *, bias: bool = True, late_bias: bool = False) -> None:
        super().__init__(d_in, d_out, bias=bias)
        self.late_bias = late_bias and bias

    def forward(self, input: Float[Tensor, "*lead d_in"]) -> Float[Tensor, "*lead d_out"]:
        if self.late_bias:
            return input @ self.weight.T + self.bias
        if not self.swift:
            return super().forward(input)
        # One matrix of rows: torch copies a frozen weight for each row of what is not one block of memory.
        return super().forward(input.reshape(-1, self.in_features)).view(*input.shape[:-1], self.out_features)

    def reset_parameters(self) -> None:
        """Leave the memory as it is."""


class PackedLinear(Linear):
    """Several roles in one weight of shape [rows, d_in]; the rows' order is `Packed`'s."""

    def __init__(
        self, packed: Packed, rows: Mapping[str, int], *, d_in: int, bias: bool, late_bias: bool = False
    ) -> None:
        for role in packed.roles:
            if rows[role] % packed.groups:
                raise InvalidArchitecture(
                    f"Packed.groups = {packed.groups} must divide the {rows[role]} rows of {role!r}"
                )
        super().__init__(d_in, sum(rows[role] for role in packed.roles), bias=bias, late_bias=late_bias)
        self.roles = packed.roles
        self.groups = packed.groups
        self.shares = [rows[role] // packed.groups for role in packed.roles]

    def split(self, out: Float[Tensor, "*lead rows"]) -> dict[str, Float[Tensor, "*lead groups share"]]:
        """The roles' slices of an output; a role's slice keeps the group dimension, so that nothing is copied."""
        grouped = out.unflatten(-1, (self.groups, sum(self.shares)))
        return dict(zip(self.roles, grouped.split(self.shares, dim=-1), strict=True))

    def role_view(self, role: str) -> Float[Tensor, "groups share d_in"]:
        """The rows of one role as a view of the packed weight."""
        index = self.roles.index(role)
        grouped = self.weight.unflatten(0, (self.groups, sum(self.shares)))
        return grouped.narrow(1, sum(self.shares[:index]), self.shares[index])


class FusedLinear(Linear):
    """The weights of several roles that were apart, one under the other: one product instead of several."""

    def __init__(self, layers: Mapping[str, Linear]) -> None:
        parts = list(layers.values())
        self.rows = {role: layer.out_features for role, layer in layers.items()}
        with torch.device("meta"):
            super().__init__(parts[0].in_features, sum(self.rows.values()), bias=parts[0].bias is not None)
        self.weight = nn.Parameter(torch.cat([layer.weight.detach() for layer in parts]), requires_grad=False)
        if parts[0].bias is not None:
            self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in parts]), requires_grad=False)

    def split(self, out: Float[Tensor, "*lead rows"]) -> dict[str, Float[Tensor, "*lead share"]]:
        """The roles' slices of an output."""
        return dict(zip(self.rows, out.split(list(self.rows.values()), dim=-1), strict=True))


class InputProjections:
    """The projections of a mixer or feed-forward: children of `owner`, named by role or by packed roles.

    Calling it gives every role's output, multiplied in the order of the roles; how they are packed was settled when it
    was built. What multiplies is looked up in `owner`: it may have been replaced since (an adapter, a quantised one).
    """

    def __init__(
        self,
        owner: nn.Module,
        rows: Mapping[str, int],
        *,
        d_in: int,
        packing: Sequence[Packed] = (),
        biases: Sequence[str] = (),
        late_bias: bool = False,
    ) -> None:
        self.owner = owner
        self.layers: list[tuple[str, Linear]] = []
        self.additions: dict[str, nn.Module] = {}
        by_role = {role: packed for packed in packing for role in packed.roles}
        for role, count in rows.items():
            packed = by_role.get(role)
            bias: dict[str, bool] = {"bias": role in biases, "late_bias": late_bias}
            if packed is None:
                self._add(owner, role, Linear(d_in, count, **bias))
            elif role == packed.roles[0]:
                self._add(owner, packed.name, PackedLinear(packed, rows, d_in=d_in, **bias))

    def _add(self, owner: nn.Module, name: str, layer: Linear) -> None:
        owner.add_module(name, layer)
        self.layers.append((name, layer))

    def __call__(
        self, x: Float[Tensor, "*lead d_in"] | Mapping[str, Tensor], then: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Each role's output: [*lead, rows], or [*lead, groups, rows / groups] where it was packed.

        x is the same for all, or each role's own.
        `then` is done to every product before it is split.
        """
        multiply = cast("Mapping[str, nn.Module]", self.owner._modules)
        products = {name: multiply[name](x if isinstance(x, Tensor) else x[name]) for name, _ in self.layers}
        for name, addition in self.additions.items():
            products[name] = products[name] + addition(x if isinstance(x, Tensor) else x[name])
        out: dict[str, Tensor] = {}
        for name, layer in self.layers:
            product = products[name] if then is None else then(products[name])
            if isinstance(layer, PackedLinear | FusedLinear):
                out.update(layer.split(product))
            else:
                out[name] = product
        return out

    def fuse(self) -> None:
        """Multiply all roles at once from now on, where they read the same and nothing is added to one of them."""
        layers = dict(self.layers)
        plain = all(type(layer) is Linear and not layer.late_bias for layer in layers.values())
        biased = {layer.bias is not None for layer in layers.values()}
        adapted = any(name.endswith("_adapters") for name in self.owner._modules)
        if len(layers) < 2 or not plain or len(biased) > 1 or adapted or self.additions:
            return
        name, fused = "_".join(layers), FusedLinear(layers)
        for role in layers:
            delattr(self.owner, role)
        self.owner.add_module(name, fused)
        self.layers = [(name, fused)]

    def with_additions(self, additions: Mapping[str, nn.Module]) -> InputProjections:
        """The same projections, to some of which another module of x is added once all are multiplied."""
        whole = copy.copy(self)
        whole.additions = dict(additions)
        return whole
