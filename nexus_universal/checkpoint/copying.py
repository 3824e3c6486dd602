"""From a transformers model's memory into the one class's, by the same rules as from its files."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.load import assemble, plan_load, put, slots


class HasN(Protocol):
    """A module that was built from n, and keeps what a file carries besides."""

    n: ArchitectureParameter
    carried: dict[str, Tensor]


def copy_weights(reference_model: nn.Module, universal_model: HasN) -> None:
    """Copy a transformers model's weights into the one class, dtype and memory layout included.

    Raises:
        CheckpointError: tensors that are missing, unexpected or misshapen, both sides named.
    """
    assert isinstance(universal_model, nn.Module)
    state = reference_model.state_dict()
    family = universal_model.n.origin.family
    if family is None:
        raise CheckpointError("this n was not read from a HuggingFace config: no family says how tensors are named")
    plan = plan_load(
        universal_model, registry.family(family).weights, {name: tuple(t.shape) for name, t in state.items()}
    )
    universal_model.carried = {name: state[part].detach().clone() for name, part in plan.carried.items()}
    wanted = slots(universal_model)
    for name, (rule, names) in plan.sources.items():
        tensor = assemble(
            wanted[name],
            rule,
            names,
            read=lambda part: state[part].detach().clone(),
            read_into=lambda part, target: target.copy_(state[part]),
            dtype=state[names[0]].dtype,
        )
        put(universal_model, name, tensor)
