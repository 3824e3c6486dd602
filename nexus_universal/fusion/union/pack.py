"""From checkpoints to a union: tensors are read in pieces, hashed, written once, against a base where that helps."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.source import CONFIG_NAME
from nexus_universal.checkpoint.files import DTYPES, TensorStore
from nexus_universal.checkpoint.opened import OpenedCheckpoint, open_checkpoint
from nexus_universal.checkpoint.progress import with_progress
from nexus_universal.checkpoint.save import tokenizer_files
from nexus_universal.fusion.union.archive import Branch, StoredTensor
from nexus_universal.fusion.union.bases import SAMPLE, Bases
from nexus_universal.fusion.union.coding import CHUNK, TEXT, Coding
from nexus_universal.fusion.union.registry import Capability
from nexus_universal.fusion.union.writer import ArchiveWriter, new_archive
from nexus_universal.generation.settings import GENERATION_CONFIG
from nexus_universal.transformer import UniversalTransformer

Source = str | PathLike[str]
LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "*USE_POLICY*", "README.md")
DTYPE_WORDS = {dtype: word for word, dtype in DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What became of one model: its tensors' bytes, and what the file grew by; how many tensors were there already."""

    name: str
    tensors: int
    duplicates: int
    against_base: int
    nbytes: int
    written: int


def pack(
    sources: Sequence[Source] | Mapping[str, Source],
    out: Source,
    *,
    capabilities: Mapping[str, Iterable[Capability]] | None = None,
    ignore_keys: Iterable[str] = (),
    **hub: str,
) -> list[Packed]:
    """Write one file that holds every model whole: tier R0, each tensor byte for byte.

    Names come from the mapping, else from the directories. No more than a few chunks of 1 MiB are held at a time. What
    the models can do is `capabilities`, by name; a model of text of which nothing is said reasons.

    Raises:
        CheckpointError: a checkpoint that does not load, or an `out` that exists or cannot be written.
        InputError: no models, a name that is no identifier, or capabilities of a model that is not there.
    """
    named = _named(sources)
    told = {name: tuple(Capability(each).value for each in said) for name, said in (capabilities or {}).items()}
    if strange := sorted(set(told) - set(named)):
        raise InputError(f"capabilities of {', '.join(strange)}: there is no such model (known: {', '.join(named)})")
    ignored = tuple(ignore_keys)
    opened = {
        name: open_checkpoint(source, UniversalTransformer, ignore_keys=ignored, **hub)
        for name, source in named.items()
    }
    report: list[Packed] = []
    with new_archive(Path(out)) as (writer, branches):
        packer = _Packer(writer)
        for name, checkpoint in opened.items():
            said = told.get(name, (Capability.REASONING.value,))
            branch, packed = packer.add(name, str(named[name]), checkpoint, capabilities=said, ignore_keys=ignored)
            branches.append(branch)
            report.append(packed)
    return report


class _Packer:
    def __init__(self, writer: ArchiveWriter) -> None:
        self.writer, self.bases = writer, Bases()

    def add(
        self,
        name: str,
        source: str,
        checkpoint: OpenedCheckpoint[UniversalTransformer],
        *,
        capabilities: tuple[str, ...],
        ignore_keys: tuple[str, ...],
    ) -> tuple[Branch, Packed]:
        """Every tensor and file of one checkpoint; quantised tensors as the file has them."""
        store = TensorStore.open(checkpoint.directory)
        tensors: dict[str, StoredTensor] = {}
        written, duplicates, against = 0, 0, 0
        for key in with_progress(lambda key: store.infos[key].nbytes, label=f"packing {name}")(list(store.infos)):
            info = store.infos[key]
            blob, sample = _hashed(store, key)
            tensors[key] = StoredTensor(blob, DTYPE_WORDS[info.dtype], info.shape, info.file.name)
            if blob in self.writer:
                duplicates += 1
                continue
            kind, coding = (info.shape, info.dtype), Coding.of(info.dtype)
            base = self.bases.nearest(kind, sample, coding)
            chunks = plain_chunks(store, key)
            written += self.writer.add(blob, chunks, nbytes=info.nbytes, coding=coding, base=base)
            against += base is not None
            if base is None:
                self.bases.add(kind, blob, sample)
        files = {file.name: self._add_file(file) for file in _companions(checkpoint.directory)}
        branch = Branch(
            name=name,
            source=source,
            n=json.loads(checkpoint.n.to_json()),
            capabilities=capabilities,
            ignore_keys=ignore_keys,
            metadata=store.metadata,
            tensors=tensors,
            files=files,
        )
        counts = {"tensors": len(tensors), "duplicates": duplicates, "against_base": against}
        return branch, Packed(name=name, **counts, nbytes=branch.nbytes, written=written)

    def _add_file(self, file: Path) -> str:
        content = file.read_bytes()
        blob = hashlib.sha256(content).hexdigest()
        if blob not in self.writer:
            chunks = (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))
            self.writer.add(blob, chunks, nbytes=len(content), coding=TEXT)
        return blob


def plain_chunks(store: TensorStore, name: str) -> Iterator[bytes]:
    """A tensor's bytes, in row-major order, as they lie in its file: read, not mapped, so that none of them stays.

    Raises:
        CheckpointError: the file ended within it.
    """
    info = store.infos[name]
    if info.start < 0:
        flat = store.read(name).contiguous().view(-1).view(torch.uint8).numpy()
        yield from (flat[at : at + CHUNK].tobytes() for at in range(0, len(flat), CHUNK))
        return
    with info.file.open("rb", buffering=0) as file:
        file.seek(info.start)
        left = info.nbytes
        while left:
            chunk = file.read(min(CHUNK, left))
            while chunk and len(chunk) < min(CHUNK, left) and (more := file.read(min(CHUNK, left) - len(chunk))):
                chunk += more
            if len(chunk) < min(CHUNK, left):
                raise CheckpointError(f"{info.file}: ended within {name}")
            left -= len(chunk)
            yield chunk


def _hashed(store: TensorStore, name: str) -> tuple[str, np.ndarray]:
    """The sha256 of a tensor's bytes, and evenly spaced numbers of it."""
    info = store.infos[name]
    itemsize = info.dtype.itemsize
    every = max(1, info.nbytes // itemsize // SAMPLE)
    hashed, seen, sample = hashlib.sha256(), 0, []
    for chunk in plain_chunks(store, name):
        hashed.update(chunk)
        numbers = np.frombuffer(chunk, dtype=f"<u{itemsize}")
        sample.append(numbers[-seen % every :: every].copy())
        seen += len(numbers)
    return hashed.hexdigest(), np.concatenate(sample) if sample else np.zeros(0, dtype=f"<u{itemsize}")


def _companions(directory: Path) -> list[Path]:
    """What a checkpoint needs besides its tensors, and what its owners ask to be handed on with it."""
    documents = [directory / name for name in (CONFIG_NAME, GENERATION_CONFIG)]
    texts = [file for pattern in LICENCES for file in sorted(directory.glob(pattern))]
    return [file for file in dict.fromkeys((*documents, *tokenizer_files(directory), *texts)) if file.is_file()]


def _named(sources: Sequence[Source] | Mapping[str, Source]) -> dict[str, Source]:
    """Every source by a name of its own.

    Raises:
        InputError: none, a name that is no identifier, or one that stands twice.
    """
    if isinstance(sources, Mapping):
        named = dict(sources)
    else:
        named = {}
        for source in sources:
            named[_free_name(Path(source), named)] = source
    if not named:
        raise InputError("there is nothing to unite: give at least one model")
    if odd := [name for name in named if not name.isidentifier()]:
        raise InputError(f"the name {odd[0]!r} must be an identifier: letters, digits and _, no digit in front")
    return named


def _free_name(source: Path, taken: Mapping[str, Source]) -> str:
    """A directory's name as an identifier, numbered where it stands already."""
    word = re.sub(r"\W+", "_", source.resolve().name if source.exists() else source.name)
    name = free = f"_{word}" if word[:1].isdigit() else word
    count = 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free
