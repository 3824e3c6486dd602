"""Every family against its reference: drawn configs, wide weights, every mode, same bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nexus_universal import families
from nexus_universal.families.shared.family import Family
from nexus_universal.parity.certificate import Certificate
from nexus_universal.parity.draws import asked, completed, longest_sample
from nexus_universal.parity.modes import MODES, Ours, compare, sample
from nexus_universal.parity.prove import Pair
from nexus_universal.parity.references import reference_and_n
from nexus_universal.parity.verify import verify_family

TYPES = families.model_types()
BOUNDED = ("nemotron_h", "zamba2")
"""Those whose Δ is bounded in the scan and never in a step: laws of cutting are not asked of them."""

ROUND_ALIKE = [name for name in TYPES if (borrowed := families.find(name).reference) is None or borrowed.rounds_alike]


def configs(family: Family) -> st.SearchStrategy[dict[str, Any]]:
    """Any mixture of the values a family's keys may take; shrinking goes back to the plain value key by key."""
    drawn = {key: st.sampled_from(values) for key, values in family.draws.items()}
    return st.fixed_dictionaries(drawn).map(lambda chosen: completed(family, {**family.tiny, **chosen}))


def assert_bit_equal(certificate: Certificate) -> None:
    """Every mode; and gradients, but where another type's class holds apart what is one matrix here.

    The gradient of that matrix's input is one product instead of a sum of several: other bits, within the floor.
    """
    rest = {row.mode for row in certificate.rows if row.verdict != "bit-equal"}
    allowed = {"gradients"} if families.find(certificate.model_type).reference is not None else set()
    assert rest <= allowed and (not rest or certificate.proven), certificate.to_markdown()


@pytest.mark.parametrize("model_type", TYPES)
def test_drawn_configs_give_the_same_bits(model_type: str) -> None:
    """Hypothesis shrinks a failure to the config key that is guilty."""
    family = families.find(model_type)

    @settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(config=configs(family), seed=st.integers(0, 2**16))
    def check(config: dict[str, Any], seed: int) -> None:
        theirs, n = reference_and_n(family, config)
        pair = Pair.built(theirs, n, dtype=torch.float32, seed=seed)
        drawn = sample(n.d_vocab, length=longest_sample(n, wanted=80), batch=2, seed=seed, pad=n.text.pad)
        with torch.no_grad():
            for mode, run in MODES.items():
                subject = asked(n, mode, drawn)
                found = compare(run(pair.reference, subject), run(Ours(pair.model), subject))
                assert found.equal, f"{mode} differs by {found.max_difference} (largest logit {found.max_logit})"

    check()


@pytest.mark.parametrize("model_type", TYPES)
def test_family_certificate(model_type: str) -> None:
    """The product's own proof: all modes, laws, gradients and greedy text on two draws."""
    certificate = verify_family(model_type, draws=2, seed=3)
    assert_bit_equal(certificate)
    assert certificate.proven
    assert {row.mode for row in certificate.rows} == {*MODES, "greedy text", "gradients"}
    assert all(row.draws == 2 for row in certificate.rows)
    assert len(certificate.laws) == (8 if model_type in BOUNDED else 11)
    assert all(law.holds for law in certificate.laws)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_other_draws(model_type: str) -> None:
    """Configs besides those of the published proof, in which each key walks through all of its values."""
    assert_bit_equal(verify_family(model_type, draws=3, seed=11))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ROUND_ALIKE)
def test_bfloat16(model_type: str) -> None:
    """bf16 has a floor so wide that only equal bits prove anything."""
    certificate = verify_family(model_type, draws=2, seed=5, dtype="bfloat16", gradients=False)
    assert all(row.verdict == "bit-equal" for row in certificate.rows), certificate.to_markdown()
