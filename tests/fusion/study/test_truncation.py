"""Truncation, whitened truncation and inflation: identities against numpy, and honest accounts of what is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion.retention import Tier
from nexus_universal.fusion.study import CapabilityDNA, DNAExtractor, inflate_pca, low_rank, rate_retention, truncate
from nexus_universal.fusion.study.inflation import PROOFS, restore
from nexus_universal.fusion.study.matrices import compressible
from nexus_universal.fusion.study.spectrum import Spectrum
from nexus_universal.fusion.study.truncation import input_metrics, points_to_json, rank_within
from tests.helpers import ids, pair

QWEN = Path(__file__).parents[2] / "data" / "qwen3_tiny"
sizes = st.tuples(st.integers(2, 16), st.integers(2, 16), st.integers(0, 2**16))


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def svd_cut(matrix: np.ndarray, k: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :k] * s[:k]) @ vt[:k]


@given(sizes, st.integers(0, 20), st.floats(0.3, 0.999))
def test_an_orthonormal_inflation_is_no_inflation(size: tuple[int, int, int], more: int, energy: float) -> None:
    matrix = drawn(*size)
    k = Spectrum.of(matrix).rank_for(energy)
    back, found = restore(
        matrix, size[1] + more, "orthonormal", energy=energy, generator=torch.Generator().manual_seed(size[2])
    )
    assert found == k
    np.testing.assert_allclose(back.numpy(), svd_cut(matrix.numpy(), k), atol=1e-8)


@given(sizes, st.integers(0, 20), st.floats(0.3, 0.999), st.sampled_from(["generic", "nonlinear"]))
def test_no_inflation_beats_eckart_and_young(size: tuple[int, int, int], more: int, energy: float, kind: str) -> None:
    matrix = drawn(*size)
    generator = torch.Generator().manual_seed(size[2])
    back, k = restore(matrix, size[1] + more, kind, energy=energy, generator=generator)  # type: ignore[arg-type]
    assert np.linalg.matrix_rank(back.numpy(), tol=1e-8 * float(matrix.norm())) <= k
    error = float((matrix - back).norm() / matrix.norm())
    assert error >= Spectrum.of(matrix).error(k) - 1e-7


@given(sizes, st.integers(1, 8))
def test_whitening_is_best_in_its_metric(size: tuple[int, int, int], k: int) -> None:
    """min E‖(W − W')x‖² over rank k, by numpy through the symmetric root instead of Cholesky's."""
    matrix, inputs = drawn(*size), drawn(3 * size[1], size[1], size[2] + 1) * torch.logspace(0, -1, size[1]).double()
    metric = inputs.T @ inputs / len(inputs)
    found = low_rank(matrix, k, metric).numpy()
    values, vectors = np.linalg.eigh(metric.numpy())
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    best = svd_cut(matrix.numpy() @ root, k) @ np.linalg.inv(root)

    def cost(other: np.ndarray) -> float:
        return float(np.linalg.norm((matrix.numpy() - other) @ root))

    scale = float(np.linalg.norm(matrix.numpy() @ root))
    assert cost(found) == pytest.approx(cost(best), abs=1e-4 * scale)
    assert cost(found) <= cost(svd_cut(matrix.numpy(), k)) + 1e-4 * scale
    np.testing.assert_allclose(low_rank(matrix, k).numpy(), svd_cut(matrix.numpy(), k), atol=1e-9)


def test_two_factors_never_take_more_than_their_share() -> None:
    for rows, columns, share in [(96, 128, 0.5), (96, 128, 0.1), (1000, 10, 0.9), (7, 7, 0.99)]:
        k = rank_within((rows, columns), share)
        assert k * (rows + columns) <= share * rows * columns < (k + 1) * (rows + columns)
    assert rank_within((4, 4), 0.01) == 1


@pytest.mark.parametrize("name", ["qwen3", "glm4_moe_lite", "gpt2"])
def test_truncation_stores_what_it_says(name: str) -> None:
    model = pair(name)[1]
    before = {slot: tensor.clone() for slot, tensor in slots(model).items()}
    changed, stored, whole = truncate(model, 0.5)
    total = sum(tensor.numel() for tensor in model.parameters())
    numbers = kept = 0
    for slot in compressible(model):
        tensor = slots(changed)[slot].detach()
        for matrix in tensor if tensor.dim() == 3 else tensor[None]:
            rank = int(np.linalg.matrix_rank(matrix.numpy(), tol=1e-4 * float(matrix.norm())))
            numbers, kept = numbers + matrix.numel(), kept + rank * sum(matrix.shape)
    assert stored == pytest.approx(kept / numbers, rel=1e-9) and stored <= 0.5
    assert whole == pytest.approx((total - numbers + kept) / total)
    assert {slot for slot in before if not torch.equal(before[slot], slots(changed)[slot])} == set(compressible(model))
    assert all(torch.equal(tensor, before[slot]) for slot, tensor in slots(model).items())


def test_metrics_are_those_of_what_is_read() -> None:
    model, text = pair("qwen3")[1], ids(3, 20)
    with torch.no_grad(), model.record("layers.1.feed_forward.input") as seen:
        model(text)
    x = seen["layers.1.feed_forward.input"].flatten(0, 1).double()
    found = input_metrics(model, text)
    torch.testing.assert_close(found["layers.1.feed_forward.up.weight"], x.T @ x / 60, rtol=1e-4, atol=1e-6)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_curve_falls_and_whitening_helps() -> None:
    model = UniversalTransformer.from_pretrained(QWEN)
    text = model.generate(ids(6, 4, vocab=1000) + 3, max_new_tokens=60, do_sample=True, seed=0)
    points, certificate = rate_retention(model, text[3:], shares=(1.0, 0.75, 0.25), calibration=text[:3])
    plain = [point.fidelity for point in points if point.method == "svd"]
    whitened = [point.fidelity for point in points if point.method == "whitened"]
    assert plain[0].kl == 0 and plain[0].flips == 0 and points[0].stored == 1
    assert plain[0].kl < plain[1].kl < plain[2].kl
    assert all(w.kl < p.kl for w, p in zip(whitened[1:], plain[1:], strict=True))
    assert certificate.promised is Tier.STATISTICAL and len(certificate.evidence) == len(points)
    assert json.loads(points_to_json(points))[1]["fidelity"]["kl"] == plain[1].kl


@pytest.mark.parametrize("kind", ["orthonormal", "generic", "nonlinear"])
def test_the_report_of_an_inflation(kind: str) -> None:
    told: list[str] = []
    found = inflate_pca(pair("qwen3")[1], 96, kind, 0.9, ids=ids(2, 16), report=told.append)  # type: ignore[arg-type]
    assert len(found.matrices) == len(compressible(pair("qwen3")[1]))
    assert PROOFS[found.kind] in told[0] and "stored" in told[0] and "accuracy" in told[0]
    assert all(each.error >= each.direct_error - 1e-6 for each in found.matrices)
    if kind == "orthonormal":
        assert all(each.components == each.direct_components for each in found.matrices)
        assert found.error == pytest.approx(found.direct_error, abs=1e-7)
        assert found.inflated.kl == pytest.approx(found.direct.kl, rel=1e-3)
    else:
        assert found.error > found.direct_error + 0.01


def test_dna_says_what_is_really_kept() -> None:
    model, told = pair("qwen3")[1], []
    dna = DNAExtractor().extract(model, "noise", ids=ids(6, 20))
    assert isinstance(dna, CapabilityDNA) and dna.modality == "text" and 0 <= dna.confidence_score <= 1
    assert dna.estimated_size_mb == sum(p.numel() for p in model.parameters()) * 4 / 1e6
    whole, small = dna.compress(1, report=told.append), dna.compress(100, report=told.append)
    assert whole.fidelity.kl == 0 and whole.certificate.tier.lossless
    assert small.fidelity.kl > 0.1 and not small.certificate.tier.lossless
    assert small.ratio < 5 and "asked 100 ×, reached " in told[1] and "KL" in told[1]
    assert small.estimated_size_mb == pytest.approx(dna.estimated_size_mb / small.ratio)
    assert math.isfinite(small.fidelity.loss[1])


def test_bad_input_is_one_clear_line() -> None:
    model = pair("qwen3")[1]
    for call, said in [
        (lambda: truncate(model, 1.5), r"stored = 1.5 must lie in \(0, 1\]"),
        (lambda: inflate_pca(model, 40, ids=ids(1, 8)), "D = 40 must be at least the 48 columns"),
        (lambda: inflate_pca(model, 96, "cubic", ids=ids(1, 8)), "kind = 'cubic' .known: orthonormal, generic"),  # type: ignore[arg-type]
        (lambda: inflate_pca(model, 96, energy=0.0, ids=ids(1, 8)), r"energy = 0.0 must lie in \(0, 1\]"),
        (lambda: inflate_pca(model, 96, ids=ids(2, 1)), r"ids of shape \(2, 1\): at least one row of two tokens"),
        (lambda: DNAExtractor().extract(model, "", ids=ids(2, 8)), "a capability needs a name"),
        (lambda: DNAExtractor().extract(model, "x", ids=ids(1, 8)), "two rows at least"),
        (lambda: DNAExtractor().extract(model, "x", ids=ids(2, 8)).compress(0.5), "ratio = 0.5 must be at least 1"),
    ]:
        with pytest.raises(InputError, match=said) as error:
            call()
        assert "\n" not in str(error.value)
