"""What makes a built model faster without changing what it computes, but for last bits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nexus_universal.layers.linear import InputProjections
from nexus_universal.layers.norms import RMSNorm
from nexus_universal.layers.quantise import Quality


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """What was done to a model, and what it cost where weights were rounded."""

    fuse: bool
    cache: str
    quality: Quality | None = None


def hasten(model: nn.Module) -> None:
    """Whatever is faster and has other last bits: fewer products, torch's norms, each module's swift form."""
    _fuse_projections(model)
    _use_native_norms(model)
    for module in model.modules():
        if hasattr(module, "swift"):
            module.swift = True  # type: ignore[assignment]


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
