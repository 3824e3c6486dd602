"""Gradients of ours against the reference's, parameter by parameter through the weight table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture import registry
from nexus_universal.checkpoint.load import assemble, plan_load, slots
from nexus_universal.parity.floors import FACTOR
from nexus_universal.parity.modes import Reference, Sample
from nexus_universal.parity.own_states import rescaled
from nexus_universal.transformer import UniversalTransformer

FINEST = 1e-4


@dataclass(frozen=True)
class GradientComparison:
    """How many parameters' gradients are equal bit by bit, and the worst relative difference with its parameter."""

    parameters: int
    equal: int
    worst: float
    worst_name: str
    floor: float


def every_token(sample: Sample, vocab: int) -> Sample:
    """As many rows as hold every id, the padding row's too: a row of the token table that must get no gradient shows.

    Of a large vocabulary one row of the sample is kept.
    """
    length = sample.ids.shape[1]
    rows = -(-vocab // length)
    if rows > sample.ids.shape[0]:
        return replace(sample, ids=sample.ids[:1], lengths=sample.lengths[:1])
    ids = torch.cat([torch.arange(vocab), sample.ids.flatten()])[: rows * length].view(rows, length)
    return replace(sample, ids=ids, lengths=(length,) * rows)


def compare_gradients(
    reference: Reference, model: UniversalTransformer, sample: Sample, *, other_attention: Any, seed: int = 0
) -> GradientComparison:
    """Backpropagate one random direction of the logits of all rows of the sample through both.

    Differences are relative to each parameter's largest gradient, but never finer than 1e-4 of the model's largest:
    some gradients are zero but for rounding (a router that always renormalises one expert). The floor is 4 × what the
    reference's own gradients change with the attention form and the batch.
    """
    probe = torch.randn(*sample.ids.shape, model.n.d_vocab, generator=torch.Generator().manual_seed(seed))
    theirs = _reference_gradients(reference, sample.ids, probe)
    doubled = _reference_gradients(reference, sample.ids.repeat(2, 1), torch.cat([probe, torch.zeros_like(probe)]))
    varied = [doubled]
    if other_attention is not None:
        varied.append(_reference_gradients(Reference(other_attention), sample.ids, probe))
    finest = FINEST * max(float(gradient.abs().max()) for gradient in theirs.values())
    floor = FACTOR * max(_relative(theirs[name], other[name], finest) for other in varied for name in theirs)

    model.zero_grad(set_to_none=True)
    (model(sample.ids).logits.float() * probe).sum().backward()
    ours = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    shapes = {name: tuple(t.shape) for name, t in reference.model.state_dict().items()}
    plan = plan_load(model, registry.family(model.n.origin.family or "").weights, shapes)
    wanted = slots(model)
    differences = {}
    equal = 0
    for name, gradient in ours.items():
        rule, names = plan.sources[name]
        expected = assemble(
            wanted[name],
            rule,
            names,
            read=theirs.__getitem__,
            read_into=lambda part, target: target.copy_(theirs[part]),
            dtype=gradient.dtype,
        )
        equal += torch.equal(gradient, expected)
        differences[name] = _relative(expected, gradient, finest)
    model.zero_grad(set_to_none=True)
    worst = max(differences, key=lambda name: differences[name])
    return GradientComparison(len(differences), equal, differences[worst], worst, floor)


def _reference_gradients(reference: Reference, ids: Tensor, probe: Tensor) -> dict[str, Tensor]:
    reference.begin()
    reference.model.zero_grad(set_to_none=True)
    (reference(ids).float() * probe).sum().backward()
    scales = rescaled(reference.model.config)
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach() * scales.get(name, 1.0)
        for name, p in reference.model.named_parameters(remove_duplicate=False)
    }
    reference.model.zero_grad(set_to_none=True)
    return found


def _relative(a: Tensor, b: Tensor, finest: float) -> float:
    return float((a.double() - b.double()).abs().max()) / max(float(a.abs().max()), finest)
