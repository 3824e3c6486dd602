"""Loaded models put side by side in one, and taken out again: tensors are shared, nothing is copied."""

from __future__ import annotations

import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import Join, alone, fused
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.transformer import UniversalTransformer


def join_models(
    join: Join = "route", *, weights: tuple[float, ...] | None = None, **models: UniversalTransformer
) -> UniversalTransformer:
    """One model of several, by name: the tier is R1, since every branch runs the very products that it ran alone.

    Example:
        >>> both = join_models(prose=a, code=b)
        >>> both(ids, capability="code").logits

    Raises:
        InputError: a model that was optimised, or is fused already.
        InvalidArchitecture: fewer than two models, or a mixture over different vocabularies.
    """
    for name, model in models.items():
        if model.optimised or model.n.fusion:
            raise InputError(
                f"{name} {'was optimised' if model.optimised else 'is fused'}: join the models it came from"
            )
    n = fused(join, weights=weights, **{name: model.n for name, model in models.items()})
    with torch.device("meta"):
        whole = UniversalTransformer(n)
    for name, model in models.items():
        _share(model, _holder(whole, name))
    return whole.eval()


def extract_branch(model: UniversalTransformer, capability: str) -> UniversalTransformer:
    """One branch as a model of its own, to be saved in its family's words, say; it shares the whole's tensors.

    Raises:
        InputError: there is none of this name.
    """
    holder = _holder(model, capability)
    with torch.device("meta"):
        single = UniversalTransformer(alone(holder.n))
    _share(holder, single)
    return single.eval()


def _holder(model: UniversalTransformer, capability: str) -> UniversalTransformer:
    holder = model.members.find(capability, model)
    assert isinstance(holder, UniversalTransformer)
    return holder


def _share(source: UniversalTransformer, target: UniversalTransformer) -> None:
    """Give one model's tensors, settings and company to another of the same n, members and bridges apart."""
    wanted = slots(target)
    for name, tensor in slots(source).items():
        if name in wanted and not name.startswith("members."):
            put(target, name, tensor.detach())
    target.settings, target.passed_over, target.carried = source.settings, source.passed_over, source.carried
