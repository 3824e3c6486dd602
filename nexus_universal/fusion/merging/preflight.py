"""A recipe checked against its models, from configs and headers alone: what will be merged from what, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.parameter import ArchitectureParameter, Difference
from nexus_universal.architecture.paths import leaves
from nexus_universal.checkpoint.load import slots
from nexus_universal.checkpoint.opened import OpenedCheckpoint, open_checkpoint
from nexus_universal.fusion.merging.methods import METHODS, REQUIRED, SPELLED, Method
from nexus_universal.fusion.merging.recipe import Recipe, Scalar, Settings, Slice, Source, evaluated
from nexus_universal.fusion.merging.vocabulary import TOKEN_ROWS, Vocabulary, settle
from nexus_universal.transformer import UniversalTransformer

Opened = OpenedCheckpoint[UniversalTransformer]

HARMLESS = re.compile(r"(^|\.)(rope\..*|window|eps|dtype|kernel)$")
"""Differences of n that leave every channel its meaning: the lead's value is kept, and said."""

LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Input:
    """A tensor of a model, by its canonical name there."""

    model: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """One tensor of the result: what it is merged from, relative to what, and with which parameters."""

    name: str
    shape: tuple[int, ...]
    inputs: tuple[Input, ...]
    base: Input | None
    values: Mapping[str, Any]

    @property
    def read(self) -> tuple[Input, ...]:
        """All that is read, the base last."""
        return self.inputs if self.base is None else (*self.inputs, self.base)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A merge that can be carried out: its result's n, built without storage, and a job for each of its tensors."""

    recipe: Recipe
    method: Method
    checkpoints: Mapping[str, Opened]
    model: UniversalTransformer
    jobs: tuple[Job, ...]
    lead: str
    vocabulary: Vocabulary | None
    notes: tuple[str, ...]

    @property
    def directories(self) -> Mapping[str, Path]:
        return {model: opened.directory for model, opened in self.checkpoints.items()}

    @property
    def largest(self) -> int:
        """Bytes of the largest tensor, as the models store it."""
        return max(
            opened.slots[name].numel() * opened.dtypes[name].itemsize
            for opened in self.checkpoints.values()
            for name in opened.slots
        )


def preflight(recipe: Recipe) -> Plan:
    """Open every checkpoint's header and settle each tensor of the result. No tensor is read.

    Raises:
        InputError: the method, a parameter, or how models are listed; vocabularies that differ.
        CheckpointError: models whose n, roles or shapes do not fit together: both sides named.
        InvalidArchitecture: layers that make no model in this order.
    """
    method = _method(recipe)
    checkpoints = {model: open_checkpoint(model, UniversalTransformer) for model in recipe.models}
    slices = [_spelled_out(each, checkpoints) for each in recipe.slices]
    lead = recipe.base if recipe.base else slices[0].sources[0].model
    vocabulary = settle(
        recipe.tokenizer,
        {model: opened.directory for model, opened in checkpoints.items()},
        {model: opened.n.d_vocab for model, opened in checkpoints.items()},
        multiple=recipe.pad_to_multiple_of,
    )
    for name in checkpoints if recipe.align else ():
        compared(_without_tokens(checkpoints[lead].n), _without_tokens(checkpoints[name].n), lead, name)
    n, notes = _result(slices, checkpoints, lead, vocabulary)
    with torch.device("meta"):
        model = UniversalTransformer(n)
    jobs = tuple(_jobs(recipe, method, slices, slots(model), checkpoints))
    for job in jobs:
        _check(job, checkpoints, vocabulary)
    _check_nothing_is_dropped(jobs, checkpoints, slices)
    for name, opened in checkpoints.items():
        notes += [f"{name}: {part} passed over: {reason}" for part, reason in opened.plan.passed_over.items()]
    return Plan(
        recipe=recipe,
        method=method,
        checkpoints=checkpoints,
        model=model,
        jobs=jobs,
        lead=lead,
        vocabulary=vocabulary,
        notes=tuple(notes),
    )


def _method(recipe: Recipe) -> Method:
    if recipe.method not in METHODS:
        raise InputError(f"merge_method {recipe.method!r} is not known (known: {', '.join(METHODS)})")
    method = METHODS[recipe.method]
    if method.base == "required" and recipe.base is None:
        raise InputError(f"{recipe.method} needs base_model, from which differences are taken")
    given = [recipe.parameters]
    for each in recipe.slices:
        given += [each.parameters, *(source.parameters for source in each.sources)]
    for name in (name for settings in given for name in settings):
        if name not in method.parameters:
            raise InputError(f"{recipe.method} has no parameter {name!r} (known: {', '.join(method.parameters)})")
    return method


def _spelled_out(each: Slice, checkpoints: Mapping[str, Opened]) -> Slice:
    """The slice with every source's layers said; they must be as many in each."""
    sources = []
    for source in each.sources:
        count = checkpoints[source.model].n.num_layers
        first, last = source.layers or (0, count)
        if last > count:
            raise InputError(f"{source.model} has {count} layers, and layer_range is [{first}, {last}]")
        sources.append(replace(source, layers=(first, last)))
    spans = [(source.model, source.layers[1] - source.layers[0]) for source in sources]
    for model, span in spans[1:]:
        if span != spans[0][1]:
            raise CheckpointError(f"{spans[0][0]} has {spans[0][1]} layers, {model} has {span}: they must be as many")
    return replace(each, sources=tuple(sources))


def _result(
    slices: list[Slice], checkpoints: Mapping[str, Opened], lead: str, vocabulary: Vocabulary | None
) -> tuple[ArchitectureParameter, list[str]]:
    """n of the result: layers of each slice's lead one after the other, ends of the first and the last one."""
    leads = [_lead_of(each, lead) for each in slices]
    notes: list[str] = []
    for each, first in zip(slices, leads, strict=True):
        for other in each.sources:
            notes += compared(_part_of(checkpoints, first), _part_of(checkpoints, other), first.model, other.model)
    whole = [checkpoints[source.model].n for source in leads]
    start, end = whole[0], whole[-1]
    layers = tuple(layer for source, n in zip(leads, whole, strict=True) for layer in n.layers[slice(*_span(source))])
    if layers != start.layers:
        _refuse_bound_to_place(start, layers)
    if start.head.tied and leads[0].model != leads[-1].model:
        notes.append(f"the head is tied to the token table, which is {leads[0].model}'s")
    n = replace(start, layers=layers, final_norm=end.final_norm, head=end.head, text=checkpoints[lead].n.text)
    if vocabulary is not None:
        n = replace(n, embedding=replace(n.embedding, vocab=vocabulary.size))
    return n.validate(), notes


def _lead_of(each: Slice, lead: str) -> Source:
    return next((source for source in each.sources if source.model == lead), each.sources[0])


def _span(source: Source) -> tuple[int, int]:
    assert source.layers is not None
    return source.layers


def _part_of(checkpoints: Mapping[str, Opened], source: Source) -> ArchitectureParameter:
    """n with only the layers that are taken; the number of tokens is the vocabulary's to settle."""
    n = _without_tokens(checkpoints[source.model].n)
    return replace(n, layers=n.layers[slice(*_span(source))])


def _without_tokens(n: ArchitectureParameter) -> ArchitectureParameter:
    return replace(n, embedding=replace(n.embedding, vocab=1, padding_row=None))


def compared(a: ArchitectureParameter, b: ArchitectureParameter, first: str, other: str) -> list[str]:
    """What is noted of two n's that can be merged.

    Raises:
        CheckpointError: they cannot; the first difference, with both sides.
    """
    differences = a.diff(b)
    for found in differences:
        if not HARMLESS.search(found.path):
            raise CheckpointError(f"{first} and {other} cannot be merged: {_both(found, first, other)}")
    return [f"n differs, the first is kept: {_both(found, first, other)}" for found in differences]


def _both(found: Difference, first: str, other: str) -> str:
    where = str(found).split(": ", 1)[0]
    return f"{where} is {found.left!r} in {first} and {found.right!r} in {other}"


def _refuse_bound_to_place(n: ArchitectureParameter, layers: tuple[Any, ...]) -> None:
    """Layers cannot be moved where their meaning or their weights depend on which one they are."""
    for path, value in (item for layer in layers for item in leaves(layer)):
        if value == "ByLayer" or (path.endswith(".share") and value is not None):
            kind = "a scale that depends on the layer's index" if value == "ByLayer" else "weights shared by layers"
            raise CheckpointError(f"layers cannot be taken out of their order here: {path.lstrip('.')} is {kind}")
    if n.embedding.per_layer is not None:
        raise CheckpointError(
            "layers cannot be taken out of their order here: embedding.per_layer has a slice for each"
        )


def _jobs(
    recipe: Recipe,
    method: Method,
    slices: list[Slice],
    wanted: Mapping[str, Tensor],
    checkpoints: Mapping[str, Opened],
) -> Iterator[Job]:
    places = [
        (each, offset, _span(each.sources[0])[1] - _span(each.sources[0])[0])
        for each in slices
        for offset in range(_span(each.sources[0])[1] - _span(each.sources[0])[0])
    ]
    for name, slot in wanted.items():
        found = LAYER.match(name)
        if found:
            each, offset, count = places[int(found[1])]
            depth = offset / max(count - 1, 1)
        else:
            each, offset, depth = (slices[0], 0, 0.0) if name.startswith("embedding.") else (slices[-1], 0, 1.0)

        def there(source: Source, name: str = name, offset: int = offset, layer: bool = bool(found)) -> Input:
            own = LAYER.sub(f"layers.{_span(source)[0] + offset}.", name, count=1) if layer else name
            return Input(source.model, own)

        sources, base = _ordered(each, method, recipe)
        names = (name, *_published(there(each.sources[0]), checkpoints))
        values = _values(recipe, method, each, sources, names, depth)
        yield Job(
            name=name,
            shape=tuple(slot.shape),
            inputs=tuple(map(there, sources)),
            base=None if base is None else there(base),
            values=values,
        )


def _published(each: Input, checkpoints: Mapping[str, Opened]) -> list[str]:
    """What a tensor is called in its files, which filters may name, too."""
    sources = checkpoints[each.model].plan.sources
    return sources[each.name][1] if each.name in sources else []


def _ordered(each: Slice, method: Method, recipe: Recipe) -> tuple[tuple[Source, ...], Source | None]:
    """What is merged, and relative to what."""
    sources, base = each.sources, None
    if recipe.base is not None and method.base != "none":
        named = next((source for source in sources if source.model == recipe.base), None)
        base = named or Source(model=recipe.base, layers=sources[0].layers)
        sources = tuple(source for source in sources if source is not named)
        if method.base == "first":
            sources, base = (base, *sources), None
    if not method.least <= len(sources) <= (method.most or len(sources)):
        wanted = str(method.least) if method.least == method.most else f"{method.least} to {method.most or 'any'}"
        besides = " besides base_model" if base else ""
        raise InputError(f"{recipe.method} merges {wanted} models{besides}, and {len(sources)} are given")
    return sources, base


def _values(
    recipe: Recipe,
    method: Method,
    each: Slice,
    sources: tuple[Source, ...],
    names: tuple[str, ...],
    depth: float,
) -> dict[str, Any]:
    """What the method is called with for one tensor; the nearest setting with a fitting filter counts."""

    def found(key: str, default: Any, *settings: Settings) -> Any:
        for given in settings:
            value = evaluated(given[key], names=names, depth=depth) if key in given else None
            if value is not None:
                return _typed(key, value, default)
        if default is REQUIRED:
            raise InputError(f"{recipe.method} needs the parameter {key!r}: none is given for {names[0]}")
        return default

    around = (each.parameters, recipe.parameters)
    shared = {SPELLED.get(key, key): found(key, default, *around) for key, default in method.shared.items()}
    per_model = {
        key: [found(key, default, source.parameters, *around) for source in sources]
        for key, default in method.per_model.items()
    }
    return shared | per_model


def _typed(key: str, value: Scalar, default: Any) -> Any:
    kind = float if default is REQUIRED else type(default)
    if isinstance(value, bool) == (kind is bool) and not isinstance(value, str):
        return kind(value)
    raise InputError(f"parameter {key} = {value!r} must be {'true or false' if kind is bool else 'a number'}")


def _check(job: Job, checkpoints: Mapping[str, Opened], vocabulary: Vocabulary | None) -> None:
    """Every model has the tensor, in the result's shape but for token rows."""
    by_token = vocabulary is not None and job.name in TOKEN_ROWS
    for each in job.read:
        slot = checkpoints[each.model].slots.get(each.name)
        if slot is None:
            others = [other.model for other in job.read if other.name in checkpoints[other.model].slots]
            sides = f"of {', '.join(others) or 'the result'} is missing in {each.model}"
            raise CheckpointError(f"{each.name} {sides}: nothing is made up for it")
        found = tuple(slot.shape)
        if found[by_token:] != job.shape[by_token:]:
            raise CheckpointError(
                f"{each.name} of {each.model} has shape {found}, {job.name} of the result {job.shape}"
            )


def _check_nothing_is_dropped(jobs: tuple[Job, ...], checkpoints: Mapping[str, Opened], slices: list[Slice]) -> None:
    """What lies beside the layers, or in layers that are taken, is read, of every model of the first and last slice."""
    used = {(each.model, each.name) for job in jobs for each in job.read}
    for each in slices:
        for source in each.sources:
            first, last = _span(source)
            for name in checkpoints[source.model].slots:
                layer = LAYER.match(name)
                if layer and first <= int(layer[1]) < last and (source.model, name) not in used:
                    raise CheckpointError(f"{name} of {source.model} has no place in the result: nothing is dropped")
