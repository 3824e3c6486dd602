"""Weights that several uses share: kept once, under the name that n gives them; and what one use adds to them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.mixers import LowRank
from nexus_universal.architecture.program import Adapter
from nexus_universal.layers.linear import InputProjections
from nexus_universal.layers.low_rank import UniversalLowRank


class Shares:
    """The first module of every name of shared weights; modules built after it take their children from it."""

    def __init__(self) -> None:
        self.known: dict[str, nn.Module] = {}
        self.uses = 0
        """How many uses of shared weights have had adapters so far: theirs are numbered through the model."""

    def find(self, name: str | None) -> nn.Module | None:
        """The module that was kept under this name."""
        return self.known.get(name) if name else None

    def keep(self, name: str | None, module: nn.Module) -> None:
        """Keep the first module of a name."""
        if name:
            self.known.setdefault(name, module)

    def tree(self) -> nn.Module:
        """All of them as children by name, dots making a tree.

        A model holds it before its layers, so that shared tensors bear these names and no layer's.
        """
        root = nn.Module()
        for name, module in self.known.items():
            *path, last = name.split(".")
            holder = root
            for key in path:
                if key not in holder._modules:
                    holder.add_module(key, nn.Module())
                holder = holder.get_submodule(key)
            holder.add_module(last, module)
        return root


def adapted(shared: nn.Module, adapters: Iterable[Adapter], *, d_in: int, use: int) -> nn.Module:
    """A module of the same weights whose input projections have low-rank additions (arXiv 2106.09685).

    The shared module holds those of all uses, by projection and number: `query_adapters.3`.

    Raises:
        UnsupportedPart: an adapter of something else.
    """
    project = shared.project
    assert isinstance(project, InputProjections)
    additions: dict[str, nn.Module] = {}
    for adapter in adapters:
        if adapter.target not in shared._modules:
            raise UnsupportedPart(f"adapters name {adapter.target!r}, which is no projection of what they add to")
        name = f"{adapter.target}_adapters"
        if name not in shared._modules:
            shared.add_module(name, nn.ModuleDict())
        rows = shared.get_submodule(adapter.target).out_features
        assert isinstance(rows, int)
        additions[adapter.target] = UniversalLowRank(LowRank(rank=adapter.rank), d_model=d_in, d_out=rows)
        shared.get_submodule(name).add_module(str(use), additions[adapter.target])
    module = copy.copy(shared)
    module._modules = {name: child for name, child in shared._modules.items() if not name.endswith("_adapters")}
    module.project = project.with_additions(additions)  # type: ignore[assignment]
    return module
