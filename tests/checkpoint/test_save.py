"""Saving: what transformers opens without a word, bytes unchanged; any n in our own format; never half a directory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.errors import CheckpointError, NexusError, UnsupportedConfig
from nexus_universal.checkpoint.load import slots
from tests.checkpoint.on_disk import SINGLE, changed, logits_of, published, same_logits, tensors_of
from tests.helpers import MODEL_TYPES, full_disk, ids, pair, reference, same, universal

types = pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if not families.find(name).saved_as])
"""Those that are saved as what they are."""


def opened_by_transformers(directory: Path, kind: Any = AutoModelForCausalLM) -> Any:
    """The reference's own loader, which must find every tensor and no other."""
    model, report = kind.from_pretrained(directory, output_loading_info=True)
    for side in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not report[side], f"{side}: {report[side]}"
    return model.eval()


@types
def test_transformers_opens_what_was_saved(model_type: str, tmp_path: Path) -> None:
    ours = UniversalTransformer.from_pretrained(published(model_type))
    ours.save_pretrained(tmp_path / "saved")
    theirs = opened_by_transformers(tmp_path / "saved", type(pair(model_type)[0]))  # no Auto class knows Emu3's config
    assert same(logits_of(theirs), logits_of(ours))
    assert same_logits(UniversalTransformer.from_pretrained(tmp_path / "saved"), model_type)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["saved"]


@types
def test_every_tensor_keeps_its_bytes(model_type: str, tmp_path: Path) -> None:
    UniversalTransformer.from_pretrained(published(model_type)).save_pretrained(tmp_path / "saved")
    before, after = tensors_of(published(model_type)), tensors_of(tmp_path / "saved")
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert same(after[name], tensor), name


@types
def test_weights_copied_from_a_model_are_saved_as_published(model_type: str, tmp_path: Path) -> None:
    """However the weights came in, they leave in the published layout."""
    pair(model_type)[1].save_pretrained(tmp_path / "saved")
    before, after = tensors_of(published(model_type)), tensors_of(tmp_path / "saved")
    assert set(before) == set(after) and all(same(after[name], tensor) for name, tensor in before.items())


@types
def test_config_and_generation_config_come_along(model_type: str, tmp_path: Path) -> None:
    directory = changed(model_type, tmp_path / "model")
    (directory / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "eos_token_id": [3, 4]}))
    UniversalTransformer.from_pretrained(directory).save_pretrained(tmp_path / "saved")
    before, after = (json.loads((place / "config.json").read_text()) for place in (directory, tmp_path / "saved"))
    assert before == after
    generation = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert generation == {"temperature": 0.5, "eos_token_id": [3, 4]}


@pytest.mark.parametrize("model_type", ["llama", "glm4_moe_lite", "gpt2"])
def test_the_dtype_saved_is_the_models(model_type: str, tmp_path: Path) -> None:
    ours = UniversalTransformer.from_pretrained(published(model_type), dtype=torch.bfloat16)
    ours.save_pretrained(tmp_path / "saved")
    raw = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert raw["dtype"] == "bfloat16" and "torch_dtype" not in raw
    kept = {name for name, tensor in tensors_of(tmp_path / "saved").items() if tensor.dtype != torch.bfloat16}
    assert all("correction_bias" in name for name in kept)
    theirs = opened_by_transformers(tmp_path / "saved")
    assert same(logits_of(theirs), logits_of(ours))


@types
@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 30_000])
def test_the_own_format_keeps_every_bit(model_type: str, shard_bytes: int, tmp_path: Path) -> None:
    ours = UniversalTransformer.from_pretrained(published(model_type))
    ours.save_pretrained(tmp_path / "saved", format="nexus", shard_bytes=shard_bytes)
    again = UniversalTransformer.from_pretrained(tmp_path / "saved")
    assert again.n == ours.n and again.n.text == ours.n.text
    assert same_logits(again, model_type)
    expected = slots(ours)
    for name, tensor in slots(again).items():
        assert same(tensor, expected[name]) and tensor.stride() == expected[name].stride(), name
    assert set(tensors_of(tmp_path / "saved")) == set(expected)


def test_the_own_format_keeps_any_n(tmp_path: Path) -> None:
    """An n that no family's config can express."""
    n = pair("llama")[1].n.replace("layers.1.attention.window", 5).replace("head.softcap", 3.0)
    torch.manual_seed(0)
    model = UniversalTransformer(n).eval()
    with pytest.raises(UnsupportedConfig, match=r"llama: no config of this family expresses head\.softcap"):
        model.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    model.save_pretrained(tmp_path / "saved", format="nexus")
    again = UniversalTransformer.from_pretrained(tmp_path / "saved")
    assert again.n == n
    assert same(logits_of(again), logits_of(model))


def test_the_own_format_keeps_the_dtype(tmp_path: Path) -> None:
    """Whatever dtype the config once named."""
    UniversalTransformer.from_pretrained(published("llama"), dtype="bfloat16").save_pretrained(
        tmp_path / "saved", format="nexus"
    )
    assert UniversalTransformer.from_pretrained(tmp_path / "saved").dtype == torch.bfloat16


def test_the_own_format_in_another_dtype(tmp_path: Path) -> None:
    ours = UniversalTransformer.from_pretrained(published("glm4_moe_lite"))
    ours.save_pretrained(tmp_path / "saved", format="nexus")
    again = UniversalTransformer.from_pretrained(tmp_path / "saved", dtype="bfloat16")
    assert again.dtype == torch.bfloat16
    assert {buffer.dtype for buffer in again.buffers()} == {torch.float32}
    assert same(logits_of(again), logits_of(ours.to(torch.bfloat16)))


def test_the_own_format_must_fit_its_n(tmp_path: Path) -> None:
    ours = pair("llama")[1]
    ours.save_pretrained(tmp_path / "saved", format="nexus")
    path = tmp_path / "saved" / "config.json"
    other = ours.n.replace("layers.*.feed_forward.width", 64)
    path.write_text(json.dumps({"model_type": "nexus_universal", "n": json.loads(other.to_json())}))
    with pytest.raises(CheckpointError, match=r"feed_forward\.\w+\.weight has shape .* n asks for"):
        UniversalTransformer.from_pretrained(tmp_path / "saved")
    path.write_text(json.dumps({"model_type": "nexus_universal", "n": json.loads(pair("qwen3")[1].n.to_json())}))
    with pytest.raises(CheckpointError, match=r"tensors and n disagree about .*key_norm"):
        UniversalTransformer.from_pretrained(tmp_path / "saved")
    path.write_text(json.dumps({"model_type": "nexus_universal"}))
    with pytest.raises(NexusError, match=r"n\.part = 'NoneType' \(must be 'ArchitectureParameter'\)"):
        UniversalTransformer.from_pretrained(tmp_path / "saved")
    path.write_text("{")
    with pytest.raises(NexusError, match="JSON"):
        UniversalTransformer.from_pretrained(tmp_path / "saved")


# Never half


def interrupted(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """The disk is full at the n-th file."""
    written: list[str] = []

    def write(tensors: Any, path: Any, metadata: Any = None) -> None:
        if len(written) == after:
            Path(path).write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        written.append(str(path))
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr("safetensors.torch.save_file", write)


@pytest.mark.parametrize("format", ["huggingface", "nexus"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_save_leaves_nothing(
    format: Any, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(monkeypatch, after=after)
    with pytest.raises(CheckpointError, match=r"saved: could not be written \(No space left on device\)"):
        pair("llama")[1].save_pretrained(tmp_path / "saved", format=format, shard_bytes=60_000)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=25)
@given(limit=st.integers(0, 90_000), shard_bytes=st.sampled_from([60_000, 10**9]))
def test_a_disk_that_fills_at_any_byte_leaves_nothing(limit: int, shard_bytes: int, tmp_path: Path) -> None:
    """By a limit of the system's: safetensors, which writes for itself, fails in its own way."""
    model, target = pair("llama")[1], tmp_path / "saved"
    try:
        with full_disk(limit):
            model.save_pretrained(target, shard_bytes=shard_bytes)
    except CheckpointError as error:
        assert re.fullmatch(r".*saved: could not be written \(.*File too large.*\)", str(error))
        assert list(tmp_path.iterdir()) == []
    else:
        assert all(file.stat().st_size <= limit for file in target.iterdir())
        shutil.rmtree(target)


def test_any_other_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(KeyboardInterrupt):
        pair("llama")[1].save_pretrained(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not empty; choose a new directory"):
        pair("llama")[1].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        pair("llama")[1].save_pretrained(tmp_path / "kept.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    (tmp_path / "empty").mkdir()
    pair("llama")[1].save_pretrained(tmp_path / "empty")
    pair("llama")[1].save_pretrained(tmp_path / "deep" / "er")
    assert (tmp_path / "empty" / SINGLE).exists() and (tmp_path / "deep" / "er" / SINGLE).exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        pair("llama")[1].save_pretrained(tmp_path / "file" / "below")


def test_a_model_of_any_making_is_saved_only_as_its_config_says(tmp_path: Path) -> None:
    import dataclasses

    n = dataclasses.replace(pair("llama")[1].n, origin=type(pair("llama")[1].n.origin)())
    with pytest.raises(UnsupportedConfig, match="name a family, or save it as 'nexus'"):
        UniversalTransformer(n).save_pretrained(tmp_path / "saved")


def test_ignored_keys_are_saved_back(tmp_path: Path) -> None:
    """What a user insisted on ignoring stays in the config, and must be ignored again."""
    directory = changed("llama", tmp_path / "model", unsloth_version="2025.1")
    with pytest.raises(UnsupportedConfig, match="unsloth_version"):
        UniversalTransformer.from_pretrained(directory)
    ours = UniversalTransformer.from_pretrained(directory, ignore_keys=["unsloth_version"])
    assert ours.n.origin.ignored_keys == ("unsloth_version",)
    ours.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["unsloth_version"] == "2025.1"


def test_a_trained_model_is_saved_as_it_is_now(tmp_path: Path) -> None:
    ours = universal(reference("qwen3_moe"))
    ours(ids(1, 9)).logits.square().mean().backward()
    torch.optim.SGD(ours.parameters(), lr=0.1).step()
    ours.save_pretrained(tmp_path / "saved")
    theirs = opened_by_transformers(tmp_path / "saved")
    assert same(logits_of(theirs), logits_of(ours))
    assert not same_logits(ours, "qwen3_moe")


def test_n_survives_the_way_there_and_back(tmp_path: Path) -> None:
    for model_type in MODEL_TYPES:
        pair(model_type)[1].save_pretrained(tmp_path / model_type)
        found = ArchitectureParameter.from_huggingface(tmp_path / model_type)
        assert found == pair(model_type)[1].n and found.signature == pair(model_type)[1].n.signature
