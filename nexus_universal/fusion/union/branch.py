"""One branch of a union as the checkpoint it was: opened, loaded, with its tokenizer, and written out again."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_universal.architecture.source import CONFIG_NAME
from nexus_universal.checkpoint.files import DTYPES, TensorInfo, TensorStore
from nexus_universal.checkpoint.opened import OpenedCheckpoint, match
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.generation.settings import GENERATION_CONFIG, GenerationSettings
from nexus_universal.generation.text import load_tokenizer
from nexus_universal.transformer import UniversalTransformer


class BranchStore(TensorStore):
    """The tensors of one branch by the names of its checkpoint; they are decoded when they are asked for."""

    def __init__(self, archive: Archive, branch: str) -> None:
        self.archive, self.branch = archive, branch
        stored = archive.branch(branch)
        infos: dict[str, TensorInfo] = {}
        for name, tensor in stored.tensors.items():
            dtype = DTYPES[tensor.dtype]
            infos[name] = TensorInfo(Path(tensor.file), tensor.shape, dtype, start=0, nbytes=tensor.nbytes)
        super().__init__(infos, dict(stored.metadata))

    def read(self, name: str) -> Tensor:
        """The tensor, in memory of its own."""
        return self.archive.tensor(self.branch, name)

    def read_into(self, name: str, target: Tensor) -> None:
        """Fill a slice; what is decoded goes straight there where dtype and layout allow it."""
        if target.dtype == self.infos[name].dtype and target.device.type == "cpu" and target.is_contiguous():
            self.archive.read_into(self.branch, name, target)
        else:
            target.copy_(self.read(name))


def open_branch(
    archive: Archive, name: str, *, dtype: str | torch.dtype = "auto"
) -> OpenedCheckpoint[UniversalTransformer]:
    """A branch with its n and the place of every tensor; none is read yet. `model.settings` are its own.

    Raises:
        InputError: there is none of this name.
        CheckpointError: its config is damaged.
    """
    branch = archive.branch(name)
    opened = match(
        archive.path,
        json.loads(archive.document(name, CONFIG_NAME)),
        lambda: BranchStore(archive, name),
        UniversalTransformer,
        dtype=dtype,
        ignore_keys=branch.ignore_keys,
    )
    with branch_files(archive, name) as directory:
        opened.model.settings = GenerationSettings.load(directory / GENERATION_CONFIG, opened.n)
    opened.model.passed_over = opened.plan.passed_over
    opened.model.eval()
    return opened


def load_branch(
    archive: Archive, name: str, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "cpu"
) -> UniversalTransformer:
    """A branch as a model, as `UniversalTransformer.from_pretrained` loaded the checkpoint that it was.

    Raises:
        CheckpointError: a damaged tensor, by name.
    """
    opened = open_branch(archive, name, dtype=dtype)
    model = opened.fill(torch.device(device))
    model.carried = opened.carried()
    return model


def load_branch_tokenizer(archive: Archive, name: str) -> Any:
    """A branch's own tokenizer.

    Raises:
        CheckpointError: it came without one.
    """
    with branch_files(archive, name) as directory:
        return load_tokenizer(directory)


@contextmanager
def branch_files(archive: Archive, name: str) -> Iterator[Path]:
    """A branch's config, tokenizer and other files in a directory that goes when the block ends."""
    with tempfile.TemporaryDirectory(prefix="nexus-union-") as scratch:
        directory = Path(scratch)
        write_files(archive, name, directory)
        yield directory


def write_files(archive: Archive, name: str, directory: str | PathLike[str]) -> None:
    """Put a branch's config, tokenizer, licence and other files into a directory, byte for byte."""
    for file in archive.branch(name).files:
        (Path(directory) / Path(file).name).write_bytes(archive.document(name, file))
