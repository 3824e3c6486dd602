"""The three trained checkpoints: proven in every mode, in their files' dtype and in float32; and they come back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from nexus_universal import UniversalTransformer
from nexus_universal.parity.modes import MODES, Ours, Reference, compare, prefill, sample
from nexus_universal.parity.references import load_reference
from nexus_universal.parity.verify import verify_checkpoint

DATA = Path(__file__).parent / "data"
PINNED = "5.23.0"
"""Bits are promised for this version; older ones that are supported must stay within the floor."""
NAMES = ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_certificate(name: str, dtype: str) -> None:
    certificate = verify_checkpoint(DATA / name, dtype=dtype)
    assert certificate.proven, certificate.to_markdown()
    assert len(certificate.rows) == len(MODES) + 1
    if transformers.__version__ == PINNED:
        assert all(row.verdict == "bit-equal" for row in certificate.rows), certificate.to_markdown()
    assert all(law.holds for law in certificate.laws)
    assert certificate.hashes["weights"]


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_gives_the_reference_the_same_bits(name: str, tmp_path: Path) -> None:
    model = UniversalTransformer.from_pretrained(DATA / name)
    model.save_pretrained(tmp_path / "back")
    drawn = sample(model.n.d_vocab, length=100, batch=1, seed=0)
    with torch.no_grad():
        before = prefill(Reference(load_reference(DATA / name, dtype=model.dtype)), drawn)
        after = prefill(Reference(load_reference(tmp_path / "back", dtype=model.dtype)), drawn)
        again = prefill(Ours(UniversalTransformer.from_pretrained(tmp_path / "back")), drawn)
    assert torch.equal(before, after)
    assert torch.equal(before, again)


def test_one_changed_weight_is_noticed() -> None:
    """A certificate is worth what it would catch: one number of one matrix."""
    model = UniversalTransformer.from_pretrained(DATA / "qwen3_tiny")
    reference = Reference(load_reference(DATA / "qwen3_tiny", dtype=model.dtype))
    drawn = sample(model.n.d_vocab, length=60, batch=1, seed=0)
    with torch.no_grad():
        model.get_parameter("layers.2.attention.key.weight")[3, 5] += 1e-3
        assert not compare(prefill(reference, drawn), prefill(Ours(model), drawn)).equal


def excess_kurtosis(model: UniversalTransformer) -> float:
    """The heaviest tail of any large matrix; 0 for a normal distribution."""
    matrices = [p.detach().float().flatten() for p in model.parameters() if p.dim() >= 2 and p.numel() > 4000]
    return max(float(((m - m.mean()) / m.std()).pow(4).mean() - 3) for m in matrices)


@pytest.mark.parametrize("name", NAMES)
def test_trained_weights_have_tails_that_random_ones_lack(name: str) -> None:
    """The reason to train at all: heavy tails, on which casts and norms go wrong."""
    model = UniversalTransformer.from_pretrained(DATA / name)
    torch.manual_seed(0)
    assert excess_kurtosis(UniversalTransformer(model.n)) < 0.3
    assert excess_kurtosis(model) > 0.5
