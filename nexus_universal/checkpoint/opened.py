"""A checkpoint that is opened: n is known and every tensor has its place, and none is read before it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import CONFIG_NAME, NEXUS_TYPE, load_json
from nexus_universal.checkpoint.dequantise import DequantisedStore
from nexus_universal.checkpoint.files import TensorStore, find_checkpoint
from nexus_universal.checkpoint.load import (
    LoadPlan,
    assemble,
    check_shape,
    check_sort,
    in_float32,
    matched,
    plan_load,
    put,
    slots,
)
from nexus_universal.checkpoint.progress import with_progress
from nexus_universal.checkpoint.quantisation import quantisation_of
from nexus_universal.checkpoint.rules import Direct, Transposed, WeightMap

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class OpenedCheckpoint(Generic[Model]):
    """Every tensor of a checkpoint by its canonical name (`layers.3.attention.query.weight`), read one by one.

    `model` is its n built without storage; `fill` gives it the tensors, and nothing else needs it.

    Example:
        >>> opened = open_checkpoint("Qwen/Qwen3-0.6B", UniversalTransformer)
        >>> opened.read("layers.3.attention.query.weight").shape
        torch.Size([2048, 1024])
    """

    directory: Path
    n: ArchitectureParameter
    model: Model
    plan: LoadPlan
    store: TensorStore
    slots: dict[str, Tensor]
    dtypes: dict[str, torch.dtype]

    def read(self, name: str) -> Tensor:
        """One tensor in the model's layout: memory-mapped where that is the file's, else put together."""
        rule, parts = self.plan.sources[name]
        read, read_into = self.store.read, self.store.read_into
        return assemble(self.slots[name], rule, parts, read=read, read_into=read_into, dtype=self.dtypes[name])

    def carried(self) -> dict[str, Tensor]:
        """What nothing is computed with, but is saved with the rest."""
        return {name: self.store.read(part) for name, part in self.plan.carried.items()}

    def fill(self, device: torch.device) -> Model:
        """Read everything into the model, with a progress bar where that takes long."""
        infos = self.store.infos
        sizes = {name: sum(infos[part].nbytes for part in parts) for name, (_, parts) in self.plan.sources.items()}
        for name in with_progress(sizes.__getitem__)(list(sizes)):
            put(self.model, name, self.read(name).to(device))
        return self.model


def open_checkpoint(
    source: str | PathLike[str],
    build: Callable[[ArchitectureParameter], Model],
    *,
    dtype: str | torch.dtype = "auto",
    ignore_keys: Iterable[str] = (),
    **hub: Any,
) -> OpenedCheckpoint[Model]:
    """Read the config and the headers of a directory or repo, `build` n without storage, and match the two.

    Raises:
        CheckpointError: missing, truncated, unexpected or misshapen tensors.
        UnsupportedConfig: a config key that the family cannot express, unless in `ignore_keys`.
    """
    directory = find_checkpoint(source, **hub)
    if not (directory / CONFIG_NAME).is_file():
        raise CheckpointError(f"{directory}: holds no {CONFIG_NAME}")
    raw = load_json(directory / CONFIG_NAME)
    return match(directory, raw, lambda: TensorStore.open(directory), build, dtype=dtype, ignore_keys=ignore_keys)


def match(
    directory: Path,
    raw: dict[str, Any],
    open_store: Callable[[], TensorStore],
    build: Callable[[ArchitectureParameter], Model],
    *,
    dtype: str | torch.dtype = "auto",
    ignore_keys: Iterable[str] = (),
) -> OpenedCheckpoint[Model]:
    """Read a config, `build` its n without storage, and match it with the tensors of a store, wherever those lie.

    Raises:
        CheckpointError: missing, truncated, unexpected or misshapen tensors.
        UnsupportedConfig: a config key that the family cannot express, unless in `ignore_keys`.
    """
    if raw.get("model_type") == NEXUS_TYPE:
        return _match_nexus(directory, raw, open_store, build, dtype=dtype)
    ignored = tuple(ignore_keys)
    quantisation = quantisation_of(raw, ignore_keys=ignored)
    n = ArchitectureParameter.from_huggingface(raw, ignore_keys=ignored)
    model = _without_storage(build, n)
    store = open_store()
    kept = store.working_dtype(dtype, said=n.text.dtype)
    if quantisation is not None:
        store = DequantisedStore(store, quantisation, dtype=kept)
    weights = registry.family_of(raw).weights
    plan = plan_load(model, weights, {name: info.shape for name, info in store.infos.items()})
    plan.passed_over |= store.passed_over
    wanted, wide = slots(model), in_float32(model, weights, kept)
    for name, (_, parts) in plan.sources.items():
        for part in parts:
            check_sort(part, store.infos[part].dtype, wanted[name])
    buffers = _buffers(model) - matched(wanted, weights.narrow)
    dtypes = {
        name: torch.float32 if name in wide else slot.dtype if name in buffers else kept
        for name, slot in wanted.items()
    }
    return OpenedCheckpoint(directory, n, model, plan, store, wanted, dtypes)


def _match_nexus(
    directory: Path,
    raw: dict[str, Any],
    open_store: Callable[[], TensorStore],
    build: Callable[[ArchitectureParameter], Model],
    *,
    dtype: str | torch.dtype,
) -> OpenedCheckpoint[Model]:
    """Our own format: canonical names, and each tensor's own dtype unless one is asked for."""
    n = ArchitectureParameter.from_huggingface(raw)
    model, store = _without_storage(build, n), open_store()
    wanted = slots(model)
    if odd := sorted(set(wanted) ^ set(store.infos)):
        raise CheckpointError(f"{directory}: tensors and n disagree about {', '.join(odd[:5])}")
    transposed = set(json.loads(store.metadata.get("transposed", "[]")))
    plan = LoadPlan({name: (Transposed(name) if name in transposed else Direct(name), [name]) for name in wanted})
    for name, (rule, _) in plan.sources.items():
        check_shape(name, tuple(wanted[name].shape), rule, [(name, store.infos[name].shape)])
        check_sort(name, store.infos[name].dtype, wanted[name])
    dtypes = {name: store.infos[name].dtype for name in wanted}
    if dtype != "auto":
        asked = store.working_dtype(dtype)
        known = n.origin.family in registry.known_families()
        table = registry.family(n.origin.family).weights if known and n.origin.family else WeightMap(tensors={})
        cast = set(wanted) - _buffers(model) - in_float32(model, table, asked)
        dtypes |= dict.fromkeys(cast, asked)
    return OpenedCheckpoint(directory, n, model, plan, store, wanted, dtypes)


def _without_storage(build: Callable[[ArchitectureParameter], Model], n: ArchitectureParameter) -> Model:
    with torch.device("meta"):
        return build(n)


def _buffers(model: nn.Module) -> set[str]:
    return {name for name, _ in model.named_buffers()}
