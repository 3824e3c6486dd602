"""Units may change places without a change in the function, and are found again by their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nexus_universal import UniversalTransformer
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.fusion.merging.alignment import arranged
from nexus_universal.fusion.merging.run import merge
from nexus_universal.fusion.retention import Tier
from tests.fusion.merging.pairs import TEXT, logits, permuted, published, related, tensors
from tests.fusion.merging.test_run import DATA, recipe
from tests.helpers import MODEL_TYPES

KINDS = {
    "qwen3": {"hidden units", "key/value heads", "query heads"},
    "gpt2": {"hidden units", "key/value heads"},
    "phi3": {"hidden units", "key/value heads", "query heads"},
    "olmo2": {"hidden units", "key/value heads"},
    "qwen3_next": {"hidden units", "key/value heads", "query heads", "experts"},
    "gpt_oss": {"hidden units", "key/value heads", "query heads", "experts"},
    "mixtral": {"hidden units", "key/value heads", "query heads", "experts"},
    "deepseek_v3": {"hidden units"},
    "bloom": {"hidden units"},
}
"""Plain, packed, transposed, normed over the width, gated, with sinks, with experts in groups, with linear biases."""


@pytest.mark.parametrize("model_type", KINDS)
def test_units_change_places_and_the_function_stays(model_type: str, tmp_path: Path) -> None:
    source = published(model_type)
    twin, moved = permuted(source, tmp_path / "twin")
    assert {kind for kind, count in moved.items() if count} >= KINDS[model_type]
    before, after = logits(source), logits(twin)
    assert (before - after).abs().max() < 1e-4 * before.abs().max()
    assert any(not torch.equal(x, y) for x, y in zip(tensors(source).values(), tensors(twin).values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_type_has_a_false_symmetry(model_type: str, tmp_path: Path) -> None:
    before, after = logits(published(model_type)), logits(permuted(published(model_type), tmp_path / "twin")[0])
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


@pytest.mark.parametrize("model_type", KINDS)
def test_a_permuted_twin_is_found_again(model_type: str, tmp_path: Path) -> None:
    """Merged after alignment it is the original, bit by bit; merged without it, it is not."""
    source = published(model_type)
    twin, _ = permuted(source, tmp_path / "twin")
    certificate = merge(recipe("linear", source, twin) | {"align": True}, tmp_path / "out")
    before, after = tensors(source), tensors(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "aligned with" in str(certificate) and certificate.evidence[0].tier is Tier.BITS
    found = certificate.evidence[1].logits
    assert found is not None and found.max_difference < 1e-4 * found.max_logit
    plain = merge(recipe("linear", source, twin), tmp_path / "plain")
    assert plain.tier is Tier.STATISTICAL


def test_a_permuted_sibling_is_merged_as_if_it_had_not_been(tmp_path: Path) -> None:
    """Weights that have moved by a tenth of their spread are still told apart."""
    source, sibling = published("mixtral"), related("mixtral", tmp_path / "sibling", share=0.1)
    twin, _ = permuted(sibling, tmp_path / "twin")
    merge(recipe("linear", source, sibling), tmp_path / "wanted")
    merge(recipe("linear", source, twin) | {"align": True}, tmp_path / "found")
    wanted, found = tensors(tmp_path / "wanted"), tensors(tmp_path / "found")
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


@pytest.mark.parametrize("name", ["qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny"])
def test_trained_models_are_aligned_with_themselves_as_they_are(name: str) -> None:
    opened = open_checkpoint(DATA / name, UniversalTransformer)
    assert str(arranged(opened, opened)) == "moved nothing"


def test_retention_tells_what_alignment_is_worth(tmp_path: Path) -> None:
    """A trained model and its permuted twin: averaged as they are they unlearn the text."""
    source = DATA / "qwen3_tiny"
    twin, _ = permuted(source, tmp_path / "twin")
    bits = []
    for align in (True, False):
        certificate = merge(recipe("linear", source, twin) | {"align": align}, tmp_path / str(align), text=TEXT)
        assert certificate.evidence[0].bits_per_byte is not None
        bits.append(certificate.evidence[0].bits_per_byte)
    (before, aligned), (_, plain) = bits
    assert aligned == pytest.approx(before, abs=1e-5) and plain > before + 0.5
