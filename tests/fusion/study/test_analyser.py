"""The analyser: numpy's numbers, the same from disk and from memory, and never a model held whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError, NexusError
from nexus_universal.checkpoint.load import slots
from nexus_universal.checkpoint.opened import OpenedCheckpoint
from nexus_universal.fusion.study import SemanticWeightAnalyzer
from nexus_universal.fusion.study.analyser import coherence, describe
from nexus_universal.fusion.study.matrices import compressible, kind_of
from tests.helpers import pair

DATA = Path(__file__).parents[2] / "data"


@pytest.mark.parametrize("name", ["qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny"])
def test_streaming_says_what_memory_says(name: str) -> None:
    model = UniversalTransformer.from_pretrained(DATA / name)
    streamed, held = SemanticWeightAnalyzer().analyze(DATA / name), SemanticWeightAnalyzer().analyze(model)
    assert streamed == held
    assert json.loads(streamed.to_json())["matrices"][0]["name"] == streamed.matrices[0].name
    seen = {each.name.partition("[")[0] for each in (*streamed.matrices, *streamed.vectors)}
    assert seen == {name for name, tensor in slots(model).items() if tensor.is_floating_point()}


def test_a_checkpoint_is_read_tensor_by_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = OpenedCheckpoint.read

    def watched(self: OpenedCheckpoint[Any], name: str) -> torch.Tensor:
        read.append(name)
        return whole(self, name)

    monkeypatch.setattr(OpenedCheckpoint, "read", watched)
    monkeypatch.setattr(OpenedCheckpoint, "fill", None)
    SemanticWeightAnalyzer().analyze(DATA / "gemma3_tiny")
    assert len(read) == len(set(read)) > 50


def test_numbers_are_numpys() -> None:
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) ** 3 + 0.5
    matrix[0, :15] = 0
    found, plain = describe("m", "embedding", matrix), matrix.double().numpy()
    values = np.linalg.svd(plain, compute_uv=False)
    shares = values**2 / (values**2).sum()
    assert found.mean == pytest.approx(plain.mean()) and found.std == pytest.approx(plain.std())
    assert found.kurtosis == pytest.approx(((plain - plain.mean()) ** 4).mean() / plain.var() ** 2 - 3)
    assert found.sparsity == 15 / 1200
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)
    assert found.rank_95 == int(np.searchsorted(shares.cumsum(), 0.95)) + 1
    assert found.stored_95 == found.rank_95 * 70 / 1200
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T)[~np.eye(40, dtype=bool)]
    assert found.coherence == pytest.approx(cosines.mean())


def test_random_rows_are_hardly_coherent() -> None:
    table = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    assert coherence(table) == pytest.approx(np.sqrt(2 / np.pi / 64), rel=0.02)
    assert coherence(torch.ones(5, 4)) == pytest.approx(1)


def test_kinds() -> None:
    model = pair("glm4_moe_lite")[1]
    kinds = {name: kind_of(model, name) for name in slots(model)}
    for name, kind in {
        "embedding.tokens.weight": "embedding",
        "head.weight": "embedding",
        "layers.0.attention.query_norm.weight": "normalization",
        "layers.0.attention.latent_up.weight": "attention",
        "layers.0.feed_forward_norm.weight": "normalization",
        "layers.1.feed_forward.router.weight": "transformation",
        "layers.1.feed_forward.experts.down": "transformation",
        "layers.1.feed_forward.shared.up.weight": "transformation",
        "final_norm.weight": "normalization",
    }.items():
        assert kinds[name] == kind, name
    delta = pair("qwen3_next")[1]
    assert kind_of(delta, "layers.0.linear_attention.output.weight") == "attention"
    assert "layers.1.feed_forward.router.weight" not in compressible(model)
    assert "layers.1.feed_forward.experts.down" in compressible(model)


@pytest.mark.parametrize("name", ["qwen3_next", "zamba2", "gemma3n_text", "gpt2", "rwkv", "modernbert-decoder"])
def test_every_matrix_of_any_family_has_a_kind(name: str) -> None:
    found = SemanticWeightAnalyzer().analyze(pair(name)[1])
    assert found.of_kind("embedding") and (found.of_kind("attention") or found.of_kind("transformation"))
    assert len(found.of_kind("other")) < len(found.matrices) * 2 / 3


def test_every_expert_is_a_matrix() -> None:
    found = SemanticWeightAnalyzer().analyze(pair("qwen3_moe")[1])
    assert [m.name for m in found.matrices if "experts.down[" in m.name][:2] == [
        "layers.0.feed_forward.experts.down[0]",
        "layers.0.feed_forward.experts.down[1]",
    ]


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="m holds numbers that are not finite"):
        describe("m", "attention", torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(NexusError, match="nowhere"):
        SemanticWeightAnalyzer().analyze("/nowhere")
