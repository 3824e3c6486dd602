"""A tier is what was shown; a promise that was not kept is refused by name."""

import json

import pytest
import torch

from nexus_universal.fusion.retention import Evidence, RetentionError, Tier, bits_per_byte, certified, evidence_of

LOGITS = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("after", "weights", "tier"),
    [
        (LOGITS, True, Tier.WEIGHTS),
        (LOGITS, False, Tier.BITS),
        (LOGITS, None, Tier.BITS),
        (LOGITS + 9e-5, None, Tier.REAL),
        (LOGITS + 9e-5, True, Tier.REAL),
        (LOGITS + 2e-4, None, Tier.STATISTICAL),
        (LOGITS[:2], None, Tier.STATISTICAL),
        (LOGITS.double(), None, Tier.REAL),
        (torch.full_like(LOGITS, float("nan")), None, Tier.STATISTICAL),
    ],
)
def test_the_tier_is_the_strongest_that_was_shown(after: torch.Tensor, weights: bool | None, tier: Tier) -> None:
    assert evidence_of("a", LOGITS, after, weights_equal=weights).tier is tier


def test_no_evidence_shows_nothing() -> None:
    assert Evidence(source="a").tier is Tier.STATISTICAL
    assert certified("merge", Tier.STATISTICAL).tier is Tier.STATISTICAL


@pytest.mark.parametrize("promised", list(Tier))
def test_a_promise_that_is_not_kept_is_refused(promised: Tier) -> None:
    kept, lost = evidence_of("kept", LOGITS, LOGITS, weights_equal=True), evidence_of("lost", LOGITS, LOGITS + 1)
    assert certified("union", promised, kept).tier is Tier.WEIGHTS
    if promised.lossless:
        with pytest.raises(RetentionError, match=f"union promises {promised}, but lost: R3, max"):
            certified("union", promised, kept, lost)
    else:
        assert certified("union", promised, kept, lost).tier is Tier.STATISTICAL


def test_the_certificate_says_all_that_was_measured() -> None:
    certificate = certified("merge", Tier.STATISTICAL, evidence_of("a", LOGITS, -LOGITS), notes=("linear",))
    assert str(certificate).splitlines()[0] == "merge: R3 (promised R3)" and "flips" in str(certificate)
    assert json.loads(certificate.to_json())["evidence"][0]["source"] == "a"


def test_a_uniform_guess_costs_the_alphabets_bits() -> None:
    ids = torch.zeros(2, 5, dtype=torch.long)
    assert bits_per_byte(torch.zeros(2, 5, 256), ids, nbytes=8) == pytest.approx(8.0)
