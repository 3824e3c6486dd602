"""Bridges put between loaded models, opened, closed, looked at and taken out: the models' own tensors are shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.initialise import initialise
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.fusion.branches import extract_branch
from nexus_universal.fusion.cross.config import CrossFusionConfig
from nexus_universal.transformer import UniversalTransformer


@dataclass(frozen=True, slots=True)
class GradientLine:
    """One tensor of a bridge: its norm, and its gradient's, which is None where there is none."""

    name: str
    norm: float
    gradient: float | None
    finite: bool

    def __str__(self) -> str:
        told = "no gradient" if self.gradient is None else f"|gradient| {self.gradient:.3g}"
        return f"{self.name}: |w| {self.norm:.3g}, {told}{'' if self.finite else ', NOT FINITE'}"


@dataclass(frozen=True)
class GradientReport:
    """What came back to every tensor of the bridges."""

    lines: tuple[GradientLine, ...]

    @property
    def dead(self) -> list[str]:
        """Tensors that do not learn: no gradient, or one of zero, or one that is not finite."""
        return [line.name for line in self.lines if not line.gradient or not line.finite]

    def __str__(self) -> str:
        return "\n".join(map(str, self.lines))


class CrossFusionManager:
    """A model with bridges: `attach` builds one, and one that was loaded is given.

    The backbones (the host's own tensors and the donors') are frozen: in the bridges alone gradients are kept.

    Example:
        >>> manager = CrossFusionManager.attach(host, donor, CrossFusionConfig(kind="attention", taps=((12, 12),)))
        >>> manager.model(ids).logits                         # the host's own, until the bridges are trained
        >>> with manager.bypass():
        ...     manager.model(ids).logits                     # the host's own, whatever they have learned

    Raises:
        InputError: a model that has no bridges.
    """

    def __init__(self, model: UniversalTransformer) -> None:
        if not model.n.bridges:
            raise InputError("this model has no bridges: CrossFusionManager.attach(host, donor, config) builds them")
        self.model = model
        own = bridge_names(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in own)

    @classmethod
    def attach(
        cls, host: UniversalTransformer, donor: UniversalTransformer, config: CrossFusionConfig
    ) -> CrossFusionManager:
        """Bridges from a donor to a host, closed: the model computes the host's bits (tier R1).

        A host that has bridges already gets those of one more donor.

        Raises:
            InputError: a model that was optimised, a donor that is fused, or taps that the host does not have.
            InvalidArchitecture: taps that the donor does not have.
        """
        for name, model in ((config.host, host), (config.donor, donor)):
            if model.optimised:
                raise InputError(f"{name} was optimised: attach the model that it came from")
        if donor.n.fusion:
            raise InputError(f"{config.donor} is fused: attach the branches that it came from, one by one")
        with torch.device("meta"):
            model = UniversalTransformer(config.fused(host.n, donor.n))
        given = slots(host) | {f"members.{config.donor}.{name}": slot for name, slot in slots(donor).items()}
        for name, slot in slots(model).items():
            tensor = given.get(name)
            new = torch.empty(slot.shape, device=host.device, dtype=host.dtype) if tensor is None else tensor.detach()
            put(model, name, new)
        for path in model.n.bridges:
            for module in _modules(model, path):
                if not any(name.startswith(f"{path}.") for name in given):
                    initialise(module, host.n.text)
        model.settings, model.passed_over, model.carried = host.settings, host.passed_over, host.carried
        model.members.find(config.donor, model).settings = donor.settings
        return cls(model.eval())

    def detach(self) -> UniversalTransformer:
        """The host alone, with the tensors that it came with."""
        assert self.model.members.own is not None
        return extract_branch(self.model, self.model.members.own)

    @contextmanager
    def bypass(self, rows: Bool[Tensor, " batch"] | None = None) -> Iterator[UniversalTransformer]:
        """The model as the host alone computes it, bit by bit, donors not run: for the time of a `with` block.

        `rows` are those of a batch that cross no bridge; the others do.
        """
        before = self.model.members.asked
        self.model.members.asked = False if rows is None else ~rows
        try:
            yield self.model
        finally:
            self.model.members.asked = before

    def report(self) -> GradientReport:
        """The gradients that are there now, tensor by tensor."""
        return GradientReport(tuple(_line(name, slot) for name, slot in bridge_names(self.model).items()))


def bridge_names(model: UniversalTransformer) -> dict[str, nn.Parameter]:
    """The tensors of all bridges, norms before them included."""
    starts = tuple(start for path in model.n.bridges for start in (f"{path}.", f"{path}_norm."))
    return {name: slot for name, slot in model.named_parameters() if name.startswith(starts)}


def _modules(model: UniversalTransformer, path: str) -> Iterator[nn.Module]:
    for name in (path, f"{path}_norm"):
        holder, _, leaf = name.rpartition(".")
        if leaf in (layer := model.get_submodule(holder))._modules:
            yield layer.get_submodule(leaf)


def _line(name: str, slot: nn.Parameter) -> GradientLine:
    norm = float(slot.detach().norm())
    if slot.grad is None:
        return GradientLine(name, norm, None, True)
    return GradientLine(name, norm, float(slot.grad.norm()), bool(slot.grad.isfinite().all()))
