"""What does not fit together is refused with both sides named, before any tensor is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal.architecture.errors import NexusError
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.fusion.merging.run import merge
from tests.checkpoint.on_disk import changed
from tests.fusion.merging.pairs import published
from tests.fusion.merging.test_run import DATA, recipe

QWEN, GEMMA = DATA / "qwen3_tiny", DATA / "gemma3_tiny"


@pytest.fixture(autouse=True)
def _nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: TensorStore, name: str, *rest: Any) -> Any:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(TensorStore, "read", refuse)
    monkeypatch.setattr(TensorStore, "read_into", refuse)


def refused(given: dict[str, Any], out: Path, *pieces: str) -> None:
    with pytest.raises(NexusError) as error:
        merge(given, out)
    assert all(piece in str(error.value) for piece in pieces), str(error.value)
    assert "\n" not in str(error.value) and not out.exists()


def test_models_of_different_n(tmp_path: Path) -> None:
    deeper = changed("qwen3", tmp_path / "b", lambda found: found)
    raw = json.loads((deeper / "config.json").read_text())
    assert raw["num_hidden_layers"] == 2
    wide = wider(tmp_path / "wide")
    a = published("qwen3")
    refused(recipe("linear", a, wide), tmp_path / "out", str(a), str(wide), "80 in", "96 in", "feed_forward.width")
    refused(recipe("linear", QWEN, GEMMA), tmp_path / "out", "qwen3_tiny", "gemma3_tiny", "4 layers", "has 6")
    refused(recipe("linear", a, QWEN), tmp_path / "out", "2 layers", "has 4")


def test_what_moves_no_channel_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    b = changed("qwen3", tmp_path / "b", rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    certificate = merge(recipe("linear", published("qwen3"), b), tmp_path / "out")
    assert "n differs, the first is kept" in str(certificate) and "rope.theta" in str(certificate)
    c = changed("qwen3", tmp_path / "c", hidden_act="gelu")
    refused(recipe("linear", published("qwen3"), c), tmp_path / "no", "activation", "'silu'", "'gelu'")


@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        (recipe("linear", QWEN) | {"merge_method": "linea"}, ("'linea' is not known", "task_arithmetic")),
        (recipe("linear", QWEN) | {"parameters": {}}, ("linear needs the parameter 'weight'", "embedding.tokens")),
        (recipe("linear", QWEN, density=1.0), ("no parameter 'density'", "weight, normalize")),
        (recipe("linear", QWEN, weight=True), ("weight = True must be a number",)),
        (recipe("linear", QWEN, normalize=1), ("normalize = 1 must be true or false",)),
        (recipe("linear", QWEN, weight="much"), ("weight = 'much' must be a number",)),
        (recipe("ties", QWEN), ("ties needs base_model",)),
        (recipe("ties", QWEN, base=QWEN), ("merges 1 to any models besides base_model", "0 are given")),
        (recipe("slerp", QWEN, QWEN, QWEN), ("slerp merges 2 models", "3 are given")),
        (recipe("nearswap", GEMMA, QWEN, base=QWEN) | {"base_model": str(GEMMA)}, ("has 6 layers", "has 4")),
        (recipe("linear", QWEN, DATA / "nowhere"), ("nowhere",)),
        (recipe("linear", QWEN) | {"tokenizer_source": "other"}, ("tokenizer 'other' is none of the models",)),
        (
            {
                "merge_method": "passthrough",
                "slices": [{"sources": [{"model": str(QWEN), "layer_range": [2, 5]}]}],
            },
            ("has 4 layers", "[2, 5]"),
        ),
    ],
    ids=str,
)
def test_recipes_that_cannot_be(given: dict[str, Any], pieces: tuple[str, ...], tmp_path: Path) -> None:
    refused(given, tmp_path / "out", *pieces)


def test_units_of_different_models_are_not_aligned(tmp_path: Path) -> None:
    slices = [{"sources": [{"model": str(model), "layer_range": [0, 2]}]} for model in (QWEN, GEMMA)]
    given = {"merge_method": "passthrough", "slices": slices, "align": True}
    refused(given, tmp_path / "out", "qwen3_tiny and", "gemma3_tiny cannot be merged")


@pytest.mark.parametrize(("model_type", "reason"), [("zamba2", "weights shared"), ("gemma3n_text", "per_layer")])
def test_layers_that_belong_where_they_are(model_type: str, reason: str, tmp_path: Path) -> None:
    slices = [{"sources": [{"model": str(published(model_type)), "layer_range": [0, 2]}]}] * 2
    refused({"merge_method": "passthrough", "slices": slices}, tmp_path / "out", "out of their order", reason)


def wider(target: Path) -> Path:
    """A checkpoint whose hidden units are more."""

    def grown(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pads: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "gate_proj": lambda x: torch.nn.functional.pad(x, (0, 0, 0, 16)),
            "up_proj": lambda x: torch.nn.functional.pad(x, (0, 0, 0, 16)),
            "down_proj": lambda x: torch.nn.functional.pad(x, (0, 16)),
        }
        for name, x in found.items():
            if name.split(".")[-2] in pads:
                found[name] = pads[name.split(".")[-2]](x)
        return found

    return changed("qwen3", target, grown, intermediate_size=96)
