"""Damaged, missing and foreign files: one clear error that names the thing, before any tensor is read."""

from __future__ import annotations

import functools
import json
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, NexusError
from nexus_universal.checkpoint.files import TensorStore, read_header
from tests.checkpoint.on_disk import SINGLE, changed, published, same_logits, tensors_of
from tests.cli.support import Code


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        UniversalTransformer.from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Coverage: both sides are named


def test_missing_and_unexpected_tensors_are_both_named(tmp_path: Path) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.q_prj.weight"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")

    message = refusal(changed("llama", tmp_path / "model", swap))
    assert message == (
        "missing tensors: model.layers.0.self_attn.q_proj.weight; "
        "unexpected tensors: model.layers.0.self_attn.q_prj.weight"
    )


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "glm4_moe_lite", "qwen3_next", "mixtral"])
@settings(max_examples=12)
@given(data=st.data())
def test_any_missing_tensor_is_named(model_type: str, data: st.DataObject, tmp_path: Path) -> None:
    name = data.draw(st.sampled_from(sorted(tensors_of(published(model_type)))))
    shutil.rmtree(tmp_path / "model", ignore_errors=True)

    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors[name]

    message = refusal(changed(model_type, tmp_path / "model", drop))
    assert message.startswith("missing tensors: ") and name in message
    if ".experts." not in name:
        assert message == f"missing tensors: {name}"


def test_long_lists_are_shortened(tmp_path: Path) -> None:
    message = refusal(changed("llama", tmp_path / "model", num_hidden_layers=4))
    assert message.count("model.layers.") == 5 and message.endswith(" and 13 more")


@pytest.mark.parametrize(
    "extra", ["model.vision_tower.weight", "model.layers.2.mlp.up_proj.weight", "lm_head.bias", "model.norm.bias"]
)
def test_any_unexpected_tensor_is_named(extra: str, tmp_path: Path) -> None:
    message = refusal(changed("llama", tmp_path / "model", lambda tensors: tensors | {extra: torch.ones(2)}))
    assert message == f"unexpected tensors: {extra}"


def test_an_unexpected_head_of_a_free_model_is_not_passed_over(tmp_path: Path) -> None:
    """What is declared for a tied head does not cover other tensors."""
    message = refusal(changed("gemma3_text", tmp_path / "model", lambda t: t | {"lm_head.bias": torch.ones(97)}))
    assert message == "unexpected tensors: lm_head.bias"


@pytest.mark.parametrize(
    ("model_type", "name", "shape"),
    [
        ("llama", "model.layers.0.mlp.down_proj.weight", (48, 81)),
        ("llama", "model.norm.weight", (1, 48)),
        ("gpt2", "transformer.h.0.attn.c_attn.weight", (144, 48)),
        ("qwen3_next", "model.layers.0.linear_attn.conv1d.weight", (80, 4)),
        ("qwen3_moe", "model.layers.0.mlp.experts.3.gate_proj.weight", (25, 48)),
        ("glm4_moe_lite", "model.layers.1.mlp.gate.e_score_correction_bias", (1,)),
    ],
)
def test_a_wrong_shape_is_named(model_type: str, name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    assert name in tensors_of(published(model_type))
    message = refusal(changed(model_type, tmp_path / "model", lambda t: t | {name: torch.zeros(shape)}))
    assert message.startswith(f"{name} has shape {shape}, but n asks for (")


def test_coverage_is_checked_before_tensors_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(TensorStore, "read", lambda self, name: read.append(name))
    monkeypatch.setattr(TensorStore, "read_into", lambda self, name, target: read.append(name))
    directory = changed("qwen3_moe", tmp_path / "model", lambda t: t | {"extra": torch.ones(2)})
    refusal(directory)
    assert read == []


# Files


@settings(max_examples=40)
@given(data=st.data())
def test_a_file_cut_anywhere_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model", dirs_exist_ok=True)
    whole = (published("llama") / SINGLE).read_bytes()
    header = struct.unpack("<Q", whole[:8])[0]
    near = [st.integers(0, 20), st.integers(header, header + 16), st.integers(len(whole) - 9, len(whole) - 1)]
    cut = data.draw(st.one_of(*near, st.integers(0, len(whole) - 1)))
    (tmp_path / "model" / SINGLE).write_bytes(whole[:cut])
    message = refusal(tmp_path / "model")
    assert SINGLE in message and "truncated" in message


@settings(max_examples=150)
@given(at=st.integers(0, 5000), value=st.integers(0, 255))
def test_a_damaged_header_never_loads_other_weights(at: int, value: int, tmp_path: Path) -> None:
    """One byte of the header replaced: a clear error, or (a byte that says nothing) the same weights."""
    whole = bytearray((published("qwen3_moe") / SINGLE).read_bytes())
    header = struct.unpack("<Q", whole[:8])[0]
    at %= 8 + header
    whole[at] = value
    shutil.copytree(published("qwen3_moe"), tmp_path / "model", dirs_exist_ok=True)
    (tmp_path / "model" / SINGLE).write_bytes(whole)
    try:
        ours = UniversalTransformer.from_pretrained(tmp_path / "model", dtype="float32")
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert same_logits(ours, "qwen3_moe")


@pytest.mark.parametrize("format", ["huggingface", "nexus"])
def test_one_wrong_letter_makes_no_integers_of_weights(format: Any, tmp_path: Path) -> None:
    """F32 and I32 are as long; so are F16 and I16."""
    UniversalTransformer.from_pretrained(published("llama")).save_pretrained(tmp_path / "model", format=format)
    file = tmp_path / "model" / SINGLE
    file.write_bytes(file.read_bytes().replace(b'"F32"', b'"I32"', 1))
    assert "holds int32, but n asks for floating-point numbers" in refusal(tmp_path / "model")


def rewritten(path: Path, edit: Any) -> None:
    """A safetensors file with an edited header and the same data."""
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])


NORM = "model.norm.weight"
DAMAGE = {
    "an unknown dtype": lambda h: h[NORM].update(dtype="F4"),
    "no dtype": lambda h: h[NORM].pop("dtype"),
    "offsets of nothing": lambda h: h[NORM].update(data_offsets=None),
    "one offset": lambda h: h[NORM].update(data_offsets=[0]),
    "shifted offsets": lambda h: h[NORM].update(data_offsets=[o + 4 for o in h[NORM]["data_offsets"]]),
    "overlapping offsets": lambda h: h[NORM].update(
        data_offsets=h["model.layers.0.input_layernorm.weight"]["data_offsets"]
    ),
    "a shape that the bytes do not fill": lambda h: h[NORM].update(shape=[47]),
    "a negative shape": lambda h: h[NORM].update(shape=[-6, -8]),
    "an entry that is a list": lambda h: h.update({NORM: []}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_header_that_contradicts_itself_is_refused(damage: str, tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model")
    rewritten(tmp_path / "model" / SINGLE, DAMAGE[damage])
    message = refusal(tmp_path / "model")
    assert SINGLE in message and "damaged" in message


def test_bytes_behind_the_last_tensor_are_refused(tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model")
    with (tmp_path / "model" / SINGLE).open("ab") as file:
        file.write(b"more")
    assert "damaged: holds" in refusal(tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"PK\3\4 not safetensors", b"\xff" * 64])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model")
    (tmp_path / "model" / SINGLE).write_bytes(content)
    assert f"{SINGLE}: not a safetensors file" in refusal(tmp_path / "model")


def sharded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    UniversalTransformer.from_pretrained(published("llama")).save_pretrained(tmp_path / "model", shard_bytes=60_000)
    return tmp_path / "model", json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    directory, index = sharded(tmp_path)
    name = sorted(set(index["weight_map"].values()))[1]
    (directory / name).unlink()
    message = refusal(directory)
    assert name in message and "this shard is missing; model.safetensors.index.json names it" in message


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    directory, index = sharded(tmp_path)
    name = sorted(set(index["weight_map"].values()))[-1]
    (directory / name).write_bytes((directory / name).read_bytes()[:-1])
    message = refusal(directory)
    assert name in message and "truncated" in message


@functools.cache
def whole_shards() -> Path:
    """A checkpoint of several shards. Shared between tests: read only."""
    return sharded(Path(tempfile.mkdtemp()))[0]


def with_shard(data: st.DataObject, directory: Path) -> tuple[str, bytearray]:
    """A copy of it, and the name and the bytes of one of its shards."""
    shutil.copytree(whole_shards(), directory, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(sorted(path.name for path in directory.glob("*.safetensors"))))
    return name, bytearray((directory / name).read_bytes())


@settings(max_examples=40)
@given(data=st.data())
def test_a_shard_cut_anywhere_is_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    name, whole = with_shard(data, tmp_path / "model")
    header = struct.unpack("<Q", whole[:8])[0]
    cut = data.draw(st.one_of(st.integers(0, header + 16), st.integers(0, len(whole) - 1)))
    (tmp_path / "model" / name).write_bytes(whole[:cut])
    message = refusal(tmp_path / "model")
    assert name in message and "truncated" in message


@settings(max_examples=100)
@given(data=st.data())
def test_a_damaged_header_of_a_shard_never_loads_other_weights(data: st.DataObject, tmp_path: Path) -> None:
    name, whole = with_shard(data, tmp_path / "model")
    at = data.draw(st.integers(0, 7 + struct.unpack("<Q", whole[:8])[0]))
    whole[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "model" / name).write_bytes(whole)
    try:
        ours = UniversalTransformer.from_pretrained(tmp_path / "model", dtype="float32")
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert same_logits(ours, "llama")


PICKLES: dict[str, Callable[[Code, Path], object]] = {
    "plain": lambda code, path: path.write_bytes(pickle.dumps({"weight": code})),
    "zipped": lambda code, path: torch.save({"weight": code, "other": torch.ones(2)}, path),
    "before torch 1.6": lambda code, path: torch.save({"weight": code}, path, _use_new_zipfile_serialization=False),
    "not a dict": lambda code, path: torch.save(code, path),
}


@pytest.mark.parametrize("sort", PICKLES)
@pytest.mark.parametrize("indexed", [False, True])
def test_pickled_code_is_never_run(sort: str, indexed: bool, tmp_path: Path) -> None:
    shutil.copy(published("llama") / "config.json", tmp_path)
    PICKLES[sort](Code(tmp_path / "ran"), tmp_path / ("shard.bin" if indexed else "pytorch_model.bin"))
    if indexed:
        index = {"weight_map": {"weight": "shard.bin"}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert "not a state dict of plain tensors" in refusal(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_shard_that_lacks_what_the_index_promises(tmp_path: Path) -> None:
    directory, index = sharded(tmp_path)
    index["weight_map"]["model.extra.weight"] = sorted(set(index["weight_map"].values()))[0]
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model.extra.weight, which model.safetensors.index.json promises" in refusal(directory)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', "not json", "[]"])
def test_an_index_that_is_none(content: str, tmp_path: Path) -> None:
    directory, _ = sharded(tmp_path)
    (directory / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json" in refusal(directory)


@pytest.mark.parametrize("escape", ["../outside.safetensors", "/etc/passwd", "sub/inside.safetensors"])
def test_an_index_cannot_name_files_elsewhere(escape: str, tmp_path: Path) -> None:
    directory, index = sharded(tmp_path)
    shutil.copy(published("llama") / SINGLE, tmp_path / "outside.safetensors")
    index["weight_map"][NORM] = escape
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "this shard is missing" in refusal(directory)


def test_a_directory_without_weights_or_config(tmp_path: Path) -> None:
    assert "holds no config.json" in refusal(tmp_path)
    shutil.copy(published("llama") / "config.json", tmp_path)
    assert "holds no weights (model.safetensors" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/no/such/place", "no such directory"),
        ("./neither", "no such directory"),
        ("one-word", "no such directory"),
        ("a/b/c", "no such directory"),
    ],
)
def test_a_place_that_is_none(source: str, said: str) -> None:
    with pytest.raises(NexusError, match=said):
        UniversalTransformer.from_pretrained(source)


def test_a_repo_that_cannot_be_reached_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="owner/name: no such directory, and the hub gave no checkpoint"):
        UniversalTransformer.from_pretrained("owner/name", local_files_only=True)


def test_a_file_in_place_of_a_directory() -> None:
    assert "is a file; a checkpoint is the directory" in refusal(published("llama") / SINGLE)


def test_a_store_reads_what_the_header_says() -> None:
    infos, metadata = read_header(published("llama") / SINGLE)
    store = TensorStore.open(published("llama"))
    assert metadata == {"format": "pt"}
    expected = tensors_of(published("llama"))
    assert set(infos) == set(expected) == set(store.infos)
    assert store.nbytes == sum(tensor.nbytes for tensor in expected.values())
    for name, tensor in expected.items():
        assert torch.equal(store.read(name), tensor)
        for dtype in (torch.float32, torch.bfloat16):
            target = torch.empty(tensor.shape, dtype=dtype)
            store.read_into(name, target)
            assert torch.equal(target, tensor.to(dtype))
