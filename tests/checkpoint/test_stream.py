"""Rows read and written a few at a time are the tensors themselves, in every layout that files have."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nexus_universal import UniversalTransformer
from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.checkpoint.save import published_tensors
from nexus_universal.checkpoint.stream import (
    TensorFiles,
    canonical_layouts,
    new_directory,
    published_layouts,
    read_rows,
    row_count,
    write_rows,
)
from tests.checkpoint.on_disk import published, tensors_of
from tests.helpers import MODEL_TYPES

LAYOUTS = ("qwen3", "gpt2", "mixtral", "gpt_oss", "mamba2", "falcon_h1", "kimi_linear", "dbrx", "xlstm", "zamba2")
"""As they are, transposed, one file per expert, interleaved, squeezed, joined, folded, single numbers, shared."""


@pytest.mark.parametrize(
    "model_type", [pytest.param(t, marks=() if t in LAYOUTS else pytest.mark.slow) for t in MODEL_TYPES]
)
def test_rows_there_and_back(model_type: str, tmp_path: Path) -> None:
    """Seven rows at a time into the family's own layout: byte for byte what the whole model is saved as."""
    source = published(model_type)
    opened = open_checkpoint(source, UniversalTransformer)
    weights = registry.family(model_type).weights
    layouts = published_layouts(opened.model, weights)
    dtypes = {part: opened.dtypes[name] for name, layout in layouts.items() for part in layout.names}
    shapes = {
        name: (tuple(x.shape), dtypes[name])
        for name, x in published_tensors(opened.model, weights).items()
        if name in dtypes
    }
    files = TensorFiles(tmp_path, shapes, metadata={})
    own = canonical_layouts(opened.model, weights)
    for name, slot in opened.slots.items():
        whole, total = opened.read(name), row_count(slot)
        flat = whole.reshape(-1, whole.shape[-1]) if whole.dim() > 1 else whole.reshape(-1)
        for start in range(0, total, 7):
            rows = read_rows(opened, name, start, min(start + 7, total))
            assert torch.equal(rows, flat[start : start + 7]), name
            write_rows(files, layouts[name], rows, start=start, slot=slot)
    assert own.keys() == layouts.keys()
    written = tensors_of(tmp_path)
    wanted = published_tensors(UniversalTransformer.from_pretrained(source), weights)
    assert written.keys() == shapes.keys() <= wanted.keys()
    assert all(torch.equal(written[name], wanted[name]) for name in written)


def test_files_are_safetensors_whatever_is_in_them(tmp_path: Path) -> None:
    """Numbers of every width, odd sizes before even ones, empty tensors, several shards."""
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        "bytes": ((3,), torch.uint8),
        "wide": ((2, 3), torch.float64),
        "half": ((5,), torch.bfloat16),
        "none": ((0, 4), torch.float32),
        "one": ((), torch.float32),
    }
    (tmp_path / "single").mkdir()
    files = TensorFiles(tmp_path / "single", shapes, metadata={"a": "b"})
    for name, (shape, dtype) in shapes.items():
        files[name].copy_(torch.arange(torch.Size(shape).numel()).view(shape).to(dtype) + 1)
    loaded = load_file(tmp_path / "single" / "model.safetensors")
    assert all(torch.equal(loaded[name], files[name]) and loaded[name].dtype == shapes[name][1] for name in shapes)
    (tmp_path / "many").mkdir()
    files = TensorFiles(tmp_path / "many", shapes, metadata={}, shard_bytes=50)
    files["wide"].fill_(3)
    store = TensorStore.open(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1 and set(store.infos) == set(shapes)
    assert bool((store.read("wide") == 3).all())
    with pytest.raises(CheckpointError, match="safetensors files hold no"):
        TensorFiles(tmp_path, {"x": ((1,), torch.complex64)}, metadata={})


def test_a_full_disk_is_found_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    refused = pytest.raises(CheckpointError, match=r"out: could not be written \(No space left")
    with refused, new_directory(tmp_path / "out") as beside:
        TensorFiles(beside, {"x": ((4,), torch.float32)}, metadata={})
    assert not list(tmp_path.iterdir())


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_directory(tmp_path / "out") as beside:
        (beside / "a").write_text("a")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "a"
    with pytest.raises(CheckpointError, match="not empty"), new_directory(tmp_path / "out"):
        pass
    with pytest.raises(RuntimeError), new_directory(tmp_path / "other"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
