"""Dense models become experts: identical ones compute what the dense model did."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError, NexusError
from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.fusion.merging.experts import upcycle
from nexus_universal.fusion.retention import Tier
from tests.fusion.merging.pairs import TEXT, published, related, tensors
from tests.fusion.merging.test_run import DATA
from tests.helpers import ids_without_pads


@pytest.mark.parametrize("model_type", ["qwen3", "phi3", "gpt2", "falcon", "gemma3_text", "glm4_moe_lite"])
@pytest.mark.parametrize(("experts", "per_token"), [(4, 2), (1, 1)])
def test_identical_experts_compute_the_same(model_type: str, experts: int, per_token: int, tmp_path: Path) -> None:
    """mergekit #352: two identical experts give garbage. Gated, packed, biased, parallel; and a model with some."""
    source = published(model_type)
    certificate = upcycle([source] * experts, tmp_path / "out", per_token=per_token)
    assert certificate.promised is Tier.REAL and certificate.tier <= Tier.REAL
    opened = UniversalTransformer.from_pretrained(tmp_path / "out")
    mixtures = [
        branch.part
        for layer in opened.n.layers
        for branch in layer.branches()
        if isinstance(branch.part, MixtureOfExperts)
    ]
    assert len(mixtures) == opened.n.num_layers and opened.n.validate() is opened.n


@pytest.mark.slow
def test_trained_and_in_another_familys_words(tmp_path: Path) -> None:
    certificate = upcycle([DATA / "qwen3_tiny"] * 4, tmp_path / "out", family="qwen3_moe", text=TEXT)
    assert certificate.tier <= Tier.REAL and not certificate.notes
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (raw["model_type"], raw["num_experts"]) == ("qwen3_moe", 4)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = UniversalTransformer.from_pretrained(DATA / "qwen3_tiny")
    x = ids_without_pads(2, 12)
    with torch.no_grad():
        assert (theirs(x).logits - ours(x).logits).abs().max() < 1e-4


def test_each_expert_is_one_models_own(tmp_path: Path) -> None:
    a, b = published("qwen3"), related("qwen3", tmp_path / "b")
    certificate = upcycle([a, b], tmp_path / "out", per_token=1)
    assert certificate.promised is Tier.STATISTICAL and len(certificate.evidence) == 2
    found = tensors(tmp_path / "out")
    for index, source in enumerate((a, b)):
        own = tensors(source)
        gate_up = torch.cat([own[f"layers.1.feed_forward.{role}.weight"] for role in ("gate", "up")])
        assert torch.equal(found["layers.1.feed_forward.experts.gate_up"][index], gate_up)
        down = own["layers.1.feed_forward.down.weight"]
        assert torch.equal(found["layers.1.feed_forward.experts.down"][index], down)
    assert torch.equal(found["layers.0.attention.query.weight"], tensors(a)["layers.0.attention.query.weight"])


def test_what_cannot_be_experts_is_refused(tmp_path: Path) -> None:
    a, out = published("qwen3"), tmp_path / "out"
    with pytest.raises(InputError, match="per_token = 3"):
        upcycle([a, a], out, per_token=3)
    with pytest.raises(InputError, match="no feed-forward"):
        upcycle([published("mamba2")] * 2, out)
    with pytest.raises(CheckpointError, match=r"cannot be merged: .* is .* in .*qwen3 and .* in .*qwen3_tiny"):
        upcycle([a, DATA / "qwen3_tiny"], out)
    with pytest.raises(InputError, match="qwen3 has no mixture"):
        upcycle([a, a], out, family="qwen3")
    with pytest.raises(NexusError, match="xielu"):
        upcycle([published("apertus")] * 2, out)
    assert not out.exists() and not list(tmp_path.iterdir())
