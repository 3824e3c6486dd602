"""A wider residual: padded with zeros where its norms are RMS norms, repeated whole where they are layer norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm
from nexus_universal.architecture.program import Program
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.fusion.growth.rebuild import Axis, grown, growth_certificate, parts_of, refuse, started
from nexus_universal.fusion.retention import Tier
from nexus_universal.transformer import UniversalTransformer

TIER = Tier.REAL


def widen(model: UniversalTransformer, d_hidden: int, *, seed: int = 0) -> UniversalTransformer:
    """The residual grown from h to `d_hidden` channels: R2. All that lies inside mixers and feed-forwards stays.

    New channels of an RMS-normed residual are 0. Then mean(x²) is h/h' of what it was, so that each gain is multiplied
    by √(h/h') and each eps by h/h'. Zeros move a layer norm's mean; there h' must be a multiple k·h, the residual is
    repeated k times, and each reader's weights are shared out among the copies, at random but with the same sum.

    Raises:
        InputError: a norm without gain, a layer norm and no multiple of h, or a part that depends on h otherwise.
        RetentionError: logits changed.
    """
    n, before = model.n, model.n.d_hidden
    if d_hidden <= before:
        raise InputError(f"d_hidden = {d_hidden} must be more than this model's {before}")
    _refuse_dependent(n)
    norms = dict(residual_norms(n))
    centred = [path for path, norm in norms.items() if norm.kind == "layer"]
    if not centred:
        for path, norm in norms.items():
            if norm.scale == "none":
                raise InputError(f"{path} has no gain that could make up for zeros: {norm!r}")
        wider = padded(model, rescaled(n, d_hidden), gain=(before / d_hidden) ** 0.5, seed=seed)
    elif d_hidden % before == 0:
        wider = _repeated(model, d_hidden // before, seed=seed)
    else:
        raise InputError(
            f"{centred[0]} is a layer norm, whose mean sees zeros: d_hidden must be a multiple of {before}"
        )
    growth_certificate("widen", TIER, model, wider)
    return wider


def residual_norms(n: ArchitectureParameter) -> Iterator[tuple[str, Norm]]:
    """The norms over the residual's width, by their modules' paths."""
    if n.embedding.norm:
        yield "embedding.norm", n.embedding.norm
    for index, layer in enumerate(n.layers):
        yield from _norms_of(layer, f"layers.{index}")
    if n.final_norm:
        yield "final_norm", n.final_norm


def _norms_of(program: Program, path: str) -> Iterator[tuple[str, Norm]]:
    for step in program.steps:
        anchor = step.branches[0].name if step.branches else "step"
        found = {f"{anchor}_norm": step.norm}
        found |= {f"{anchor}_{write.register}_write_norm": write.norm for write in step.writes}
        for branch in step.branches:
            found |= {f"{branch.name}_input_norm": branch.input_norm, f"{branch.name}_output_norm": branch.output_norm}
            part: Any = branch.part
            found |= {f"{branch.name}.expert_norm": getattr(part, "expert_norm", None)}
            router = getattr(part, "router", None)
            found |= {f"{branch.name}.router.norm": getattr(router, "input_norm", None)}
            if isinstance(part, Program):
                yield from _norms_of(part, f"{path}.{branch.name}")
        yield from ((f"{path}.{name}", norm) for name, norm in found.items() if norm is not None)


def rescaled(n: ArchitectureParameter, d_hidden: int) -> ArchitectureParameter:
    """n of that width, the eps of every norm of the residual times h/h'."""
    share = n.d_hidden / d_hidden

    def norm(old: Norm | None) -> Norm | None:
        return old and replace(old, eps=old.eps * share)

    def part(old: Any) -> Any:
        if isinstance(old, Program):
            return program(old)
        if isinstance(old, MixtureOfExperts):
            router = replace(old.router, input_norm=norm(old.router.input_norm))
            return replace(old, expert_norm=norm(old.expert_norm), router=router)
        return old

    def program(old: Program) -> Program:
        steps = []
        for step in old.steps:
            branches = (
                replace(
                    each,
                    part=part(each.part),
                    input_norm=norm(each.input_norm),
                    output_norm=norm(each.output_norm),
                )
                for each in step.branches
            )
            writes = tuple(replace(write, norm=norm(write.norm)) for write in step.writes)
            steps.append(replace(step, branches=tuple(branches), writes=writes, norm=norm(step.norm)))
        return replace(old, steps=tuple(steps))

    return replace(
        n,
        embedding=replace(n.embedding, width=d_hidden, norm=norm(n.embedding.norm)),
        layers=tuple(program(layer) for layer in n.layers),
        final_norm=norm(n.final_norm),
    )


def padded(model: UniversalTransformer, n: ArchitectureParameter, *, gain: float, seed: int) -> UniversalTransformer:
    """A model of the wider `n` whose new channels are 0 everywhere, the gains of the residual's norms times `gain`."""
    norms, old = dict(residual_norms(n)), torch.arange(model.n.d_hidden)
    gains = {f"{path}.weight" for path in norms}  # gains of 0 would let no gradient through to the new channels
    axes = {
        name: [Axis(dim, old, fresh=name in gains or _reads(name, slot, dim)) for dim in dims]
        for name, slot, dims in _changed(model, n)
    }
    wider = grown(model, n, seed=seed, axes=axes)
    for path, norm in norms.items():
        weight = slots(wider)[f"{path}.weight"].detach()
        shift = 1.0 if norm.scale == "one_plus_weight" else 0.0
        put(wider, f"{path}.weight", ((weight.double() + shift) * gain - shift).to(weight.dtype))
    return wider


def _repeated(model: UniversalTransformer, times: int, *, seed: int) -> UniversalTransformer:
    n, old = model.n, slots(model)
    refuse("embedding", n.embedding, "its norm is not that of a layer", narrow=None)
    head = n.head
    if head.tied:  # the table is repeated, so that the sum over it is that many times too large
        refuse("head", head, "it would not be repeated with the table", bias=False)
        head = replace(head, divisor=(head.divisor or 1.0) * times)
    wide = replace(n, embedding=replace(n.embedding, width=n.d_hidden * times), head=head)
    drawn, written = slots(started(model, wide, seed=seed)), {}
    for name, slot, dims in _changed(model, wide):
        tensor = old[name].detach()
        for dim in dims:
            reads = _reads(name, slot, dim)
            tensor = torch.cat([tensor / times if reads else tensor] * times, dim)
        if any(_reads(name, slot, dim) for dim in dims):
            noise = drawn[name].to(tensor).unflatten(-1, (times, n.d_hidden))
            tensor = tensor + (noise - noise.mean(-2, keepdim=True)).flatten(-2)
        written[name] = tensor
    return grown(model, wide, seed=seed, written=written)


def _changed(model: UniversalTransformer, n: ArchitectureParameter) -> Iterator[tuple[str, Tensor, list[int]]]:
    """The tensors that are larger in n, and their axes along the residual: nothing but its width has changed."""
    with torch.device("meta"):
        wider = slots(UniversalTransformer(n.validate()))
    for name, slot in slots(model).items():
        dims = [dim for dim, (a, b) in enumerate(zip(slot.shape, wider[name].shape, strict=True)) if a != b]
        if dims:
            yield name, slot, dims


def _reads(name: str, slot: Tensor, dim: int) -> bool:
    """Whether an axis is read along: the last one of a matrix that is no table."""
    return slot.dim() > 1 and dim == slot.dim() - 1 and not name.startswith("embedding.")


def _refuse_dependent(n: ArchitectureParameter) -> None:
    """What depends on h by more than the shape of its matrices."""
    why = "it depends on the width of the residual in a way of its own"
    plain = ("per_layer", "bands", "narrow")
    refuse("embedding", n.embedding, why, **dict.fromkeys(plain), beside=(), gain=False)
    if not isinstance(n.embedding.positions, LearnedPositions | None):
        raise InputError(f"embedding.positions = {n.embedding.positions!r}: {why}")
    refuse("head", n.head, why, bands=None, transform=None)
    refuse("n", n, why, streams=None, registers=())
    for path, part in parts_of(n):
        if not isinstance(part, Attention | LatentAttention | FeedForward | MixtureOfExperts):
            raise InputError(f"{path} is a {type(part).__name__}: {why}")
        refuse(path, part, why, apart=None, convolution=None, indexer=None, latent=None)
        if isinstance(part, MixtureOfExperts):
            refuse(f"{path}.router", part.router, why, input_scale=False)
    for path, norm in residual_norms(n):
        refuse(path, norm, why, gate_rank=None)
    _refuse_wide_reads(n)


def _refuse_wide_reads(n: ArchitectureParameter) -> None:
    for index, layer in enumerate(n.layers):
        for step in layer.steps:
            if step.read.join != "sum" or step.connection is not None:
                raise InputError(f"layers.{index} reads {step.read!r}: not one residual of the model's width")
