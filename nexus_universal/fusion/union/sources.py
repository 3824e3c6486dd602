"""What is packed: checkpoints, and the branches of unions that exist already, each under a name of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import torch

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import CONFIG_NAME
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.checkpoint.save import tokenizer_files
from nexus_universal.fusion.union.archive import Archive, is_union
from nexus_universal.fusion.union.branch import BranchStore
from nexus_universal.fusion.union.coding import CHUNK
from nexus_universal.fusion.union.registry import Capability
from nexus_universal.generation.settings import GENERATION_CONFIG
from nexus_universal.transformer import UniversalTransformer

Source = str | PathLike[str]
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "*USE_POLICY*", "README.md")


@dataclass(frozen=True, kw_only=True)
class GivenModel:
    """One model to pack: its tensors as its files have them, and its other files, read when they are called."""

    name: str
    source: str
    n: ArchitectureParameter
    store: TensorStore
    files: Mapping[str, Callable[[], bytes]]
    capabilities: tuple[str, ...] = (Capability.REASONING.value,)
    ignore_keys: tuple[str, ...] = ()


def given_models(
    sources: Sequence[Source] | Mapping[str, Source], *, ignore_keys: Iterable[str] = (), **hub: str
) -> list[GivenModel]:
    """All models, opened: headers are read and matched with n, tensors are not.

    A checkpoint is named by the mapping, else by its directory, with a number where that name is taken. A union gives
    its branches under their own names; one that has a single branch may be given another.

    Raises:
        CheckpointError: a checkpoint that does not load, or a damaged union.
        InputError: no models, a name that is no identifier, or one that stands twice.
    """
    ignored = tuple(ignore_keys)
    named = isinstance(sources, Mapping)
    pairs = list(sources.items()) if isinstance(sources, Mapping) else [(None, source) for source in sources]
    models: list[GivenModel] = []
    for name, source in pairs:
        if is_union(source):
            branches = _branches(Archive(source))
            models += [replace(branches[0], name=name)] if name and len(branches) == 1 else branches
        else:
            wanted = name or _free_name(Path(source), {model.name for model in models})
            models.append(_checkpoint(wanted, source, ignored, **hub))
    names = [model.name for model in models]
    if not models:
        raise InputError("there is nothing to unite: give at least one model")
    if odd := [name for name in names if not name.isidentifier()]:
        raise InputError(f"the name {odd[0]!r} must be an identifier: letters, digits and _, no digit in front")
    if twice := [name for name in names if names.count(name) > 1]:
        hint = "give another" if named else "give names"
        raise InputError(f"the name {twice[0]!r} stands twice: {hint}")
    return models


def plain_chunks(store: TensorStore, name: str) -> Iterator[bytes]:
    """A tensor's bytes, in row-major order: read, not mapped, so that none of them stays.

    Raises:
        CheckpointError: the file ended within it, or is damaged.
    """
    info = store.infos[name]
    if isinstance(store, BranchStore):
        yield from store.archive.tensor_chunks(store.branch, name)
    elif info.start < 0:
        flat = store.read(name).contiguous().view(-1).view(torch.uint8).numpy()
        yield from (flat[at : at + CHUNK].tobytes() for at in range(0, len(flat), CHUNK))
    else:
        with info.file.open("rb") as file:
            file.seek(info.start)
            for left in range(info.nbytes, 0, -CHUNK):
                chunk = file.read(min(CHUNK, left))
                if len(chunk) < min(CHUNK, left):
                    raise CheckpointError(f"{info.file}: ended within {name}")
                yield chunk


def _checkpoint(name: str, source: Source, ignored: tuple[str, ...], **hub: str) -> GivenModel:
    opened = open_checkpoint(source, UniversalTransformer, ignore_keys=ignored, **hub)
    store = TensorStore.open(opened.directory)  # not the opened one, which dequantises
    files = {file.name: file.read_bytes for file in _companions(opened.directory)}
    return GivenModel(name=name, source=str(source), n=opened.n, store=store, files=files, ignore_keys=ignored)


def _branches(archive: Archive) -> list[GivenModel]:
    return [
        GivenModel(
            name=name,
            source=branch.source,
            n=branch.parameter,
            store=BranchStore(archive, name),
            files={file: partial(archive.document, name, file) for file in branch.files},
            capabilities=branch.capabilities,
            ignore_keys=branch.ignore_keys,
        )
        for name, branch in archive.branches.items()
    ]


def _companions(directory: Path) -> list[Path]:
    """What a checkpoint needs besides its tensors, and what its owners ask to be handed on with it."""
    documents = [directory / name for name in (CONFIG_NAME, GENERATION_CONFIG)]
    texts = [file for pattern in LICENCES for file in sorted(directory.glob(pattern))]
    return [file for file in dict.fromkeys((*documents, *tokenizer_files(directory), *texts)) if file.is_file()]


def _free_name(source: Path, taken: set[str]) -> str:
    """A directory's name as an identifier, numbered where it stands already."""
    word = re.sub(r"\W+", "_", source.resolve().name if source.exists() else source.name)
    name = free = f"_{word}" if word[:1].isdigit() else word
    count = 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free
