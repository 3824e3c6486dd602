"""What of a model's tensors is a matrix, and of which kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.checkpoint.load import slots
from nexus_universal.layers.experts import Experts, WeighedExperts
from nexus_universal.layers.norms import UniversalNorm

Kind = Literal["attention", "transformation", "embedding", "normalization", "other"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: dict[str, Kind] = {"mixer": "attention", "feed_forward": "transformation"}


def kind_of(model: nn.Module, name: str) -> Kind:
    """What a slot is for: mixing positions, transforming each, tables and head, or norms."""
    if isinstance(model.get_submodule(name.rpartition(".")[0]), UniversalNorm):
        return "normalization"
    if name.startswith(("embedding.", "head.")):
        return "embedding"
    pieces = name.split(".")
    for length in range(1, len(pieces)):  # from the outside: a router inside a mixture is part of the mixture
        part = getattr(model.get_submodule(".".join(pieces[:length])), "part", None)
        if getattr(part, "role", None) in ROLES:
            return ROLES[part.role]  # type: ignore[union-attr]
    return "other"


def is_stack(model: nn.Module, name: str) -> bool:
    """Whether a slot holds one matrix per expert."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Experts | WeighedExperts)


def matrices_in(
    model: nn.Module, name: str, tensor: Float[Tensor, "*shape"]
) -> Iterator[tuple[str, Float[Tensor, "rows columns"]]]:
    """The matrices of a slot: itself, each expert's, or what else there is with all but the first axis joined."""
    if tensor.dim() == 3 and is_stack(model, name):
        yield from ((f"{name}[{index}]", matrix) for index, matrix in enumerate(tensor))
    elif tensor.dim() >= 2:
        yield name, tensor.flatten(1)


def compressible(model: nn.Module) -> list[str]:
    """The slots whose matrices a layer multiplies by: no tables, no head, no norms, no convolutions."""
    return [
        name
        for name, tensor in slots(model).items()
        if kind_of(model, name) in ("attention", "transformation")
        and tensor.is_floating_point()
        and (
            (tensor.dim() == 2 and name.endswith(".weight") and not name.endswith(".router.weight"))
            or (tensor.dim() == 3 and is_stack(model, name))
        )
    ]
