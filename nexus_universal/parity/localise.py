"""Where two models part: the first component, in order of computation, whose outputs differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nexus_universal.checkpoint.rules import INDEX, WeightMap


@dataclass(frozen=True)
class Divergence:
    """A component of ours, its counterpart in the reference, and how far their outputs are apart."""

    component: str
    reference: str
    max_difference: float
    bits_differ_first: str
    """The first component whose bits differ at all; it may lie before the one that leaves the floor."""

    def __str__(self) -> str:
        return f"{self.component} (reference: {self.reference}) differs by {self.max_difference:.3g}"


@torch.no_grad()
def first_divergence(
    reference: nn.Module,
    model: nn.Module,
    weights: WeightMap,
    *,
    call_reference: Callable[[], Any],
    call_model: Callable[[], Any],
    floor: float = 0.0,
) -> Divergence | None:
    """Run the same call on both, record every component that the weight table names on both sides, compare in order."""
    pairs = component_pairs(reference, model, weights)
    theirs = _record(reference, set(pairs.values()), call_reference)
    ours = _record(model, set(pairs), call_model)
    first_bits: str | None = None
    worst: Divergence | None = None
    for name, found in ours.items():
        counterpart = pairs[name]
        expected = theirs.get(counterpart)
        if expected is None or expected.numel() != found.numel():
            continue
        difference = _difference(expected, found)
        if difference == 0.0:
            continue
        first_bits = first_bits or name
        if difference > floor:
            return Divergence(name, counterpart, difference, first_bits)
        if worst is None:
            worst = Divergence(name, counterpart, difference, first_bits)
    return worst


def component_pairs(reference: nn.Module, model: nn.Module, weights: WeightMap) -> dict[str, str]:
    """Canonical module → reference module, for every module of ours that the family's table names."""
    theirs = dict(reference.named_modules())
    table: dict[str, list[str]] = {}
    for canonical, target in weights.modules():
        table.setdefault(canonical, []).append(target)
    pairs: dict[str, str] = {}
    for name, _ in model.named_modules():
        for target in table.get(INDEX.sub("{i}", f"{name}.").removesuffix("."), ()):
            for index in INDEX.findall(f"{name}."):
                target = target.replace("{i}", index, 1)
            if target in theirs:
                pairs.setdefault(name, target)
    return pairs


def _record(model: nn.Module, names: set[str], call: Callable[[], Any]) -> dict[str, Tensor]:
    """Outputs of the named modules, in the order in which they were computed."""
    recorded: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name in names:

            def hook(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
                if isinstance(out, Tensor):
                    recorded[name] = out.detach().clone()

            handles.append(module.register_forward_hook(hook))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return recorded


def _difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two outputs that may be viewed or transposed differently."""
    if a.shape != b.shape:
        if a.dim() == b.dim() and a.transpose(1, 2).shape == b.shape and a.dim() == 4:
            a = a.transpose(1, 2)
        else:
            a = a.reshape(b.shape)
    return float((a.double() - b.double()).abs().max())
