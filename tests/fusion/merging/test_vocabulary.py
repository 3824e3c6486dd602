"""Rows of tokens are brought together by the tokens' spelling; nothing is cut to what is common."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.merging.run import merge
from nexus_universal.fusion.retention import Tier
from nexus_universal.generation.text import load_tokenizer
from tests.fusion.merging.pairs import TEXT, rewritten, tensors
from tests.fusion.merging.test_run import DATA, recipe

SOURCE = DATA / "qwen3_tiny"
TABLE = "embedding.tokens.weight"


@pytest.fixture
def shuffled(tmp_path: Path) -> Path:
    """The same model, its ordinary tokens in another order: same text, same function, other ids."""
    raw = json.loads((SOURCE / "tokenizer.json").read_text())
    special = {entry["id"] for entry in raw["added_tokens"]}
    vocab: dict[str, int] = raw["model"]["vocab"]
    free = [i for i in range(1024) if i not in special]
    drawn = torch.randperm(len(free), generator=torch.Generator().manual_seed(0)).tolist()
    new = torch.arange(1024)
    new[free] = torch.tensor([free[i] for i in drawn])
    raw["model"]["vocab"] = {token: int(new[i]) for token, i in vocab.items()}

    def moved(found: dict[str, Tensor]) -> dict[str, Tensor]:
        table = torch.empty_like(found[TABLE])
        table[new] = found[TABLE]
        return {TABLE: table}

    target = rewritten(SOURCE, tmp_path / "shuffled", moved)
    (target / "tokenizer.json").write_text(json.dumps(raw))
    return target


@pytest.fixture
def richer(tmp_path: Path) -> Path:
    """The same model with two tokens more, one of them special, whose rows are all 7."""
    target = tmp_path / "richer"
    shutil.copytree(SOURCE, tmp_path / "copy")
    raw = json.loads((SOURCE / "tokenizer.json").read_text())
    raw["model"]["vocab"]["zzzz"] = 1024
    raw["added_tokens"].append(raw["added_tokens"][0] | {"id": 1025, "content": "<|new|>"})
    config = json.loads((SOURCE / "config.json").read_text())
    from safetensors.torch import load_file, save_file

    found = load_file(SOURCE / "model.safetensors")
    name = "model.embed_tokens.weight"
    found[name] = torch.cat([found[name], torch.full((2, found[name].shape[1]), 7.0)])
    shutil.copytree(SOURCE, target)
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})
    (target / "tokenizer.json").write_text(json.dumps(raw))
    (target / "config.json").write_text(json.dumps(config | {"vocab_size": 1026}))
    return target


def union(*models: Path, source: str = "union", **keys: Any) -> dict[str, Any]:
    return recipe("linear", *models) | {"tokenizer": {"source": source, **keys}}


@pytest.mark.parametrize("source", ["union", "base"])
def test_the_same_tokens_in_another_order_are_the_same_model(source: str, shuffled: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"token .* has id \d+ in .*qwen3_tiny and \d+ in .*shuffled"):
        merge(recipe("linear", SOURCE, shuffled), tmp_path / "refused")
    certificate = merge(union(SOURCE, shuffled, source=source), tmp_path / "out", text=TEXT)
    assert certificate.tier <= Tier.REAL
    before, after = tensors(SOURCE), tensors(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("order", [1, -1])
def test_tokens_of_one_model_keep_their_rows(order: int, richer: Path, tmp_path: Path) -> None:
    """Vocabularies are never cut to the common rows."""
    with pytest.raises(InputError, match=r"1024 token rows.*1026|1026 token rows.*1024"):
        merge(recipe("linear", SOURCE, richer), tmp_path / "refused")
    models = (SOURCE, richer)[::order]
    certificate = merge(union(*models), tmp_path / "out", text=TEXT)
    assert all(each.logits and each.logits.max_difference < 1e-4 for each in certificate.evidence)
    assert all(each.bits_per_byte for each in certificate.evidence)
    table = tensors(tmp_path / "out")[TABLE]
    assert table.shape[0] == 1026 and torch.equal(table[1024:], torch.full((2, 96), 7.0))
    assert torch.equal(table[:1024], tensors(SOURCE)[TABLE])
    tokenizer = load_tokenizer(tmp_path / "out")
    assert (
        tokenizer("<|new|>").input_ids == [1025] and tokenizer(TEXT).input_ids == load_tokenizer(SOURCE)(TEXT).input_ids
    )


def test_the_base_alone_can_be_kept_and_rows_padded(richer: Path, tmp_path: Path) -> None:
    merge(union(SOURCE, richer, source="base"), tmp_path / "base")
    assert tensors(tmp_path / "base")[TABLE].shape[0] == 1024
    merge(union(SOURCE, richer, pad_to_multiple_of=64), tmp_path / "padded")
    table = tensors(tmp_path / "padded")[TABLE]
    assert table.shape[0] == 1088 and not table[1026:].any()


def test_a_models_own_tokenizer_can_lead(richer: Path, tmp_path: Path) -> None:
    merge(union(SOURCE, richer, source=str(richer)), tmp_path / "out")
    assert tensors(tmp_path / "out")[TABLE].shape[0] == 1026


def test_without_tokenizers_rows_cannot_be_told(richer: Path, tmp_path: Path) -> None:
    (richer / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="richer: holds no tokenizer"):
        merge(union(SOURCE, richer), tmp_path / "out")
