"""Upcycling (arXiv 2212.05055): every feed-forward becomes a mixture of experts, each a dense model's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.paths import with_parts
from nexus_universal.checkpoint.opened import OpenedCheckpoint, open_checkpoint
from nexus_universal.checkpoint.stream import new_directory, read_rows, row_count
from nexus_universal.fusion.merging.measure import measured
from nexus_universal.fusion.merging.preflight import compared
from nexus_universal.fusion.merging.run import copy_companions, working_dtype
from nexus_universal.fusion.merging.symmetries import rows_of
from nexus_universal.fusion.merging.target import Target
from nexus_universal.fusion.merging.vocabulary import settle
from nexus_universal.fusion.retention import RetentionCertificate, Tier, certified
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.transformer import UniversalTransformer

Opened = OpenedCheckpoint[UniversalTransformer]


def upcycle(
    sources: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    per_token: int = 2,
    seed: int = 0,
    text: str | None = None,
    family: str | None = None,
) -> RetentionCertificate:
    """Write a model whose experts are the feed-forwards of `sources`, all else being the first one's.

    One source, named several times, gives identical experts and the same function (R2), for the chosen experts'
    weights sum to 1. Of different ones nothing is promised (R3). The router starts random: training needs unequal
    experts. Written in the nexus format, or in the words of a `family`, such as "qwen3_moe" for experts made of Qwen3.

    Example:
        >>> upcycle(["Qwen/Qwen3-0.6B"] * 4, "four_experts", family="qwen3_moe").tier
        <Tier.REAL: 2>

    Raises:
        InputError: fewer sources than a token visits experts, or different vocabularies.
        CheckpointError: models that do not fit together.
        InvalidArchitecture: feed-forwards that no expert can be.
        UnsupportedConfig: the `family` cannot say what the result is.
        RetentionError: identical experts that do not compute what the source does; nothing is written.
    """
    names = [str(source) for source in sources]
    if not 1 <= per_token <= len(names):
        raise InputError(f"per_token = {per_token} must lie between 1 and the number of sources = {len(names)}")
    opened = {name: open_checkpoint(name, UniversalTransformer) for name in dict.fromkeys(names)}
    lead = opened[names[0]]
    for name, other in opened.items():
        compared(lead.n, other.n, names[0], name)
    settle(None, {m: o.directory for m, o in opened.items()}, {m: o.n.d_vocab for m, o in opened.items()})
    n = with_experts(lead.n, experts=len(names), per_token=per_token, like=family)
    with torch.device("meta"):
        model = UniversalTransformer(n)
    same = len(opened) == 1
    with new_directory(Path(out)) as beside:
        format = "huggingface" if family else "nexus"
        target = Target.of(
            beside, model, dtype=working_dtype(lead), format=format, family=family, carried=lead.carried()
        )
        _write(target, [opened[name] for name in names], seed=seed)
        copy_companions(lead.directory, beside)
        directories = {name: each.directory for name, each in opened.items()}
        evidence = measured(beside, directories, lead=names[0], text=text, dtype="float32" if same else "auto")
        notes = () if target.note is None else (target.note,)
        return certified("upcycle", Tier.REAL if same else Tier.STATISTICAL, *evidence, notes=notes)


def with_experts(
    n: ArchitectureParameter, *, experts: int, per_token: int, like: str | None = None
) -> ArchitectureParameter:
    """n with every feed-forward a mixture, the chosen experts' weights summing to 1.

    `like` is a model type whose mixture it shall be, down to where its router rounds.

    Raises:
        InvalidArchitecture: no expert can be what the feed-forward is.
        InputError: there is no feed-forward, or `like` has no mixture.
    """

    def mixed(part: Any) -> Any:
        if not isinstance(part, FeedForward):
            return part
        return _mixture(like, replace(part, packing=()), experts=experts, per_token=per_token)

    result = with_parts(n, mixed)
    if result == n:
        raise InputError("there is no feed-forward that could become experts")
    return result.validate()


def _mixture(like: str | None, expert: FeedForward, *, experts: int, per_token: int) -> MixtureOfExperts:
    if like is None:
        router = Router(score="softmax", normalise=True)
        return MixtureOfExperts(experts=experts, per_token=per_token, expert=expert, router=router)
    branches = (branch for layer in registry.family(like).example().layers for _, branch in layer.all_branches())
    own = next((branch.part for branch in branches if isinstance(branch.part, MixtureOfExperts)), None)
    if own is None:
        raise InputError(f"{like} has no mixture of experts: name a model type that has, such as 'mixtral'")
    router = replace(own.router, normalise=not own.router.score.endswith("_chosen"), scale=None)
    return replace(
        own, experts=experts, per_token=per_token, expert=expert, router=router, shared=None, shared_gate=False
    )


def _write(target: Target, experts: Sequence[Opened], *, seed: int) -> None:
    """Fill the result: stacks expert by expert, the router at random, all else as the first model has it."""
    lead = experts[0]
    dense = {path: m for path, m in lead.model.named_modules() if isinstance(m, UniversalFeedForward)}
    generator = torch.Generator().manual_seed(seed)
    for name, slot in target.slots.items():
        if name in lead.slots:
            target.write(name, read_rows(lead, name, 0, row_count(slot)))
            continue
        path, _, leaf = name.partition(".experts.")
        if leaf:
            for index, opened in enumerate(experts):
                own = _of_expert(opened, path, dense[path], leaf)
                rows = own if own.dim() > 1 else own.unsqueeze(0)
                target.write(name, rows, start=index * rows.shape[0])
        else:
            target.write(name, torch.randn(slot.shape, generator=generator) * lead.n.text.initializer_range)


def _of_expert(opened: Opened, path: str, module: UniversalFeedForward, leaf: str) -> Tensor:
    """One expert's share of a stack, of a dense model's feed-forward."""
    suffix = "bias" if leaf.endswith("bias") else "weight"
    if leaf.startswith("down"):
        return _whole(opened, f"{path}.down.{suffix}")
    roles = ("gate", "up") if module.part.gated else ("up",)
    pieces = []
    for role in roles:
        for axis in rows_of(path, module.project, role, module.part.width):
            if axis.name.endswith(suffix):
                pieces.append(_whole(opened, axis.name)[axis.positions.flatten()])
    return torch.cat(pieces)


def _whole(opened: Opened, name: str) -> Tensor:
    return read_rows(opened, name, 0, row_count(opened.slots[name]))
