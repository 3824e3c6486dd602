"""Weights that several uses share: kept once, under the name that n gives them."""

from __future__ import annotations

from torch import nn


class Shares:
    """The first module of every name of shared weights; modules built after it take their children from it."""

    def __init__(self) -> None:
        self.known: dict[str, nn.Module] = {}

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
