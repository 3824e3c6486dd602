"""From checkpoints to a union: tensors are read in pieces, hashed, written once, against a base where that helps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.files import DTYPES, TensorStore
from nexus_universal.checkpoint.progress import with_progress
from nexus_universal.fusion.union.archive import Branch, StoredTensor
from nexus_universal.fusion.union.bases import SAMPLE, Bases
from nexus_universal.fusion.union.coding import CHUNK, TEXT, Coding
from nexus_universal.fusion.union.registry import Capability
from nexus_universal.fusion.union.sources import GivenModel, Source, given_models, plain_chunks
from nexus_universal.fusion.union.writer import ArchiveWriter, new_archive

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

    Sources are checkpoints, and unions, whose branches come along; see `given_models` for their names. No more than a
    few chunks of 1 MiB are held at a time. What the models can do is `capabilities`, by name; a model of text of which
    nothing is said reasons.

    Raises:
        CheckpointError: a checkpoint that does not load, or an `out` that exists or cannot be written.
        InputError: no models, a wrong name, or capabilities of a model that is not there.
    """
    models = given_models(sources, ignore_keys=ignore_keys, **hub)
    told = {name: tuple(Capability(each).value for each in said) for name, said in (capabilities or {}).items()}
    names = [model.name for model in models]
    if strange := sorted(set(told) - set(names)):
        raise InputError(f"capabilities of {', '.join(strange)}: there is no such model (known: {', '.join(names)})")
    report: list[Packed] = []
    with new_archive(Path(out)) as (writer, branches):
        packer = _Packer(writer)
        for model in models:
            branch, packed = packer.add(replace(model, capabilities=told.get(model.name, model.capabilities)))
            branches.append(branch)
            report.append(packed)
    return report


class _Packer:
    """Writes models, and remembers what was written: to keep it once, and to code others against it."""

    def __init__(self, writer: ArchiveWriter) -> None:
        self.writer, self.bases = writer, Bases()

    def add(self, model: GivenModel) -> tuple[Branch, Packed]:
        """Every tensor and file of one model; quantised tensors as the file has them."""
        infos = model.store.infos
        tensors: dict[str, StoredTensor] = {}
        written, duplicates, against = 0, 0, 0
        for name in with_progress(lambda name: infos[name].nbytes, label=f"packing {model.name}")(list(infos)):
            info = infos[name]
            blob, sample = _hashed(model.store, name)
            tensors[name] = StoredTensor(blob, DTYPE_WORDS[info.dtype], info.shape, info.file.name)
            if blob in self.writer:
                duplicates += 1
                continue
            kind, coding = (info.shape, info.dtype), Coding.of(info.dtype)
            base = self.bases.nearest(kind, sample, coding)
            chunks = plain_chunks(model.store, name)
            written += self.writer.add(blob, chunks, nbytes=info.nbytes, coding=coding, base=base)
            against += base is not None
            if base is None:
                self.bases.add(kind, blob, sample)
        branch = Branch(
            name=model.name,
            source=model.source,
            n=json.loads(model.n.to_json()),
            capabilities=model.capabilities,
            ignore_keys=model.ignore_keys,
            metadata=model.store.metadata,
            tensors=tensors,
            files={name: self._add_file(read()) for name, read in model.files.items()},
        )
        counts = {"tensors": len(tensors), "duplicates": duplicates, "against_base": against}
        return branch, Packed(name=model.name, **counts, nbytes=branch.nbytes, written=written)

    def _add_file(self, content: bytes) -> str:
        blob = hashlib.sha256(content).hexdigest()
        if blob not in self.writer:
            chunks = (content[at : at + CHUNK] for at in range(0, len(content), CHUNK))
            self.writer.add(blob, chunks, nbytes=len(content), coding=TEXT)
        return blob


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
