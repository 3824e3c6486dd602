"""`nexus chat` and `nexus convert`."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus_universal import UniversalTransformer
from tests.cli.support import DATA, TRAINED, Result

Run = Callable[..., Result]
IDS = torch.arange(3, 40)[None]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda text: monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_each_line_is_a_turn(nexus: Run, typed: Callable[[str], None]) -> None:
    """The second answer knows the first turn; a cleared conversation does not."""
    call = ["chat", TRAINED, "--greedy", "--max-new-tokens", 8]
    typed("Create a new\n")
    alone = nexus(*call)
    assert alone.status == 0 and not alone.err
    typed("Create a new\n\nReturn the first\n/clear\nCreate a new\n/exit\nnever read\n")
    shown = nexus(*call)
    assert shown.out.startswith(alone.out) and shown.out.endswith(alone.out)
    typed("Return the first\n")
    assert shown.out != alone.out + nexus(*call).out + alone.out


def test_chat_options_are_checked_before_anything_is_loaded(nexus: Run) -> None:
    shown = nexus("chat", "no/where", "--greedy", "--top-k", 3)
    assert (shown.status, shown.err) == (2, "nexus: --top-k has no effect with --greedy\n")
    shown = nexus("chat", DATA, "--greedy")
    assert shown.status == 2 and shown.err.count("\n") == 1


@pytest.mark.parametrize("name", ["qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny"])
def test_there_and_back_keeps_every_byte(name: str, nexus: Run, tmp_path: Path) -> None:
    assert nexus("convert", DATA / name, tmp_path / "nexus", "--to", "nexus").status == 0
    assert nexus("convert", tmp_path / "nexus", tmp_path / "back").status == 0
    before, after = (
        {key: tensor for file in folder.glob("*.safetensors") for key, tensor in load_file(file).items()}
        for folder in (DATA / name, tmp_path / "back")
    )
    assert before.keys() == after.keys()
    assert all(before[key].dtype == after[key].dtype and torch.equal(before[key], after[key]) for key in before)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "back" / file).read_bytes() == (DATA / name / file).read_bytes()
    assert AutoTokenizer.from_pretrained(tmp_path / "back")("Create a new").input_ids


def test_another_dtype_is_what_loading_in_it_gives(nexus: Run, tmp_path: Path) -> None:
    shown = nexus("convert", TRAINED, tmp_path / "half", "--dtype", "bfloat16")
    assert shown.status == 0 and "huggingface, bfloat16" in shown.out
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    reference = AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.bfloat16)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    assert torch.equal(opened(IDS).logits, reference(IDS).logits)


def test_pickles_become_safetensors(nexus: Run, copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(tensors, copy / "pytorch_model.bin")
    assert nexus("convert", copy, tmp_path / "out").status == 0
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())


def test_a_model_in_the_words_of_another_type(nexus: Run, copy: Path, tmp_path: Path) -> None:
    """Qwen3's norms made neutral do not make it a Llama: n says so. A Mistral without window is a Llama."""
    shown = nexus("convert", copy, tmp_path / "llama", "--family", "llama")
    assert shown.status == 2 and "llama: no config of this family expresses" in shown.err
    assert not (tmp_path / "llama").exists()

    config: dict[str, Any] = json.loads((copy / "config.json").read_text())
    plain = {key: config[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    plain |= {"model_type": "mistral", "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": None}
    plain |= {"head_dim": 32, "tie_word_embeddings": True}
    (copy / "config.json").write_text(json.dumps(plain))
    tensors = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "_norm" not in k}, copy / "model.safetensors", {"format": "pt"})
    assert nexus("convert", copy, tmp_path / "llama", "--family", "llama").status == 0
    assert json.loads((tmp_path / "llama" / "config.json").read_text())["model_type"] == "llama"
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    assert torch.equal(opened(IDS).logits, UniversalTransformer.from_pretrained(copy)(IDS).logits)


def test_nothing_is_overwritten(nexus: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("mine")
    shown = nexus("convert", TRAINED, tmp_path / "kept")
    assert shown.status == 2 and "exists and is not empty" in shown.err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["file"]
