"""What makes a built model faster without changing what it computes, but for last bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from jaxtyping import Int
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import refuse_fused
from nexus_universal.cache.kinds import ROUNDED, CacheKind
from nexus_universal.cache.static import any_loose
from nexus_universal.layers.call import CallPlan
from nexus_universal.layers.linear import InputProjections
from nexus_universal.layers.norms import RMSNorm
from nexus_universal.layers.quality import Quality, rounded_cache
from nexus_universal.layers.quantise import Quantisation, quantised
from nexus_universal.layers.running import Running

M = TypeVar("M", bound=Any)


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """What was done to a model, and what it cost where weights were rounded."""

    fuse: bool
    cache: CacheKind
    run: Running
    quality: Quality | None = None
    cache_quality: Quality | None = None


def optimise(
    model: M,
    *,
    fuse: bool,
    cache: CacheKind,
    compile: bool,
    quantize: Quantisation | None,
    sample: Int[Tensor, "batch seq"] | None,
) -> M:
    """Do what `UniversalTransformer.optimize` says, and note it on the model and on every branch of a fused one.

    Raises:
        InputError: no such kind of cache, one that this model or a compiler cannot have, or no torchao to quantise.
    """
    if compile and cache in ROUNDED:
        raise InputError(f"compile=True cannot be had with cache={cache!r}: it has a static one, where that can be")
    if compile and cache == "buffered":  # inductor fails where buffers grow
        cache = "exact" if any_loose(model.new_cache(kind="exact").states) else "static"
    model.new_cache(kind=cache)  # which says what is wrong with it
    if quantize or cache in ROUNDED:
        refuse_fused(model.n, "rounding")
    model.requires_grad_(False).eval()
    if fuse:
        hasten(model)
    quality = quantised(model, quantize, vocab=model.n.d_vocab, sample=sample) if quantize else None
    cost = rounded_cache(model, cache, sample=sample) if cache in ROUNDED else None
    run = Running.compiled() if compile else Running()
    done = Optimised(fuse=fuse, cache=cache, run=run, quality=quality, cache_quality=cost)
    for module in model.modules():
        if isinstance(module, type(model)):
            module.optimised = done
    return model


def hasten(model: nn.Module) -> None:
    """Whatever is faster and has other last bits: fewer products, torch's norms, each module's swift form.

    Windows and blocks of long calls meet only the keys that they see.
    """
    _fuse_projections(model)
    _use_native_norms(model)
    for module in model.modules():
        if hasattr(module, "swift"):
            module.swift = True  # type: ignore[assignment]
        if isinstance(plan := getattr(module, "plan", None), CallPlan):
            plan.blockwise = True


def _fuse_projections(model: nn.Module) -> None:
    """Make one product of those that read the same vector."""
    for module in list(model.modules()):
        project = getattr(module, "project", None)
        if isinstance(project, InputProjections) and getattr(module, "input_norms", None) is None:
            project.fuse()


def _use_native_norms(model: nn.Module) -> None:
    """Let torch's kernel compute the norms that it can."""
    for module in model.modules():
        if type(module) is RMSNorm and module.part.scale != "one_plus_weight":
            module.native = True
