"""What makes a built model faster without changing what it computes, but for last bits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nexus_universal.layers.call import CallPlan
from nexus_universal.layers.linear import InputProjections
from nexus_universal.layers.norms import RMSNorm
from nexus_universal.layers.quantise import Quality


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """What was done to a model, and what it cost where weights were rounded."""

    fuse: bool
    cache: str
    quality: Quality | None = None


def use_fast_forms(model: nn.Module, plan: CallPlan) -> None:
    """One product of what reads the same, torch's norms, and windows and blocks of long calls computed apart."""
    fuse_projections(model)
    use_native_norms(model)
    plan.blockwise = True


def fuse_projections(model: nn.Module) -> None:
    """Make one product of those that read the same vector."""
    for module in list(model.modules()):
        project = getattr(module, "project", None)
        if isinstance(project, InputProjections) and getattr(module, "input_norms", None) is None:
            project.fuse()


def use_native_norms(model: nn.Module) -> None:
    """Let torch's kernel compute the norms that it can."""
    for module in model.modules():
        if type(module) is RMSNorm and module.part.scale != "one_plus_weight":
            module.native = True
