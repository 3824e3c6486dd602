"""Spectra against numpy's SVD and written-out definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal.fusion.study.spectrum import ROWS_AT_ONCE, Spectrum

shapes = st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**16))


def drawn(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(shapes)
def test_values_are_those_of_numpy(shape: tuple[int, int, int]) -> None:
    matrix = drawn(*shape)
    found, known = Spectrum.of(matrix), np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    np.testing.assert_allclose(found.values.numpy(), known, atol=1e-7 * known[0])
    assert found.frobenius == pytest.approx(np.linalg.norm(matrix.double().numpy()), rel=1e-9)
    assert found.spectral_norm == pytest.approx(known[0], rel=1e-9)
    shares = known**2 / (known**2).sum()
    assert found.entropy == pytest.approx(-(shares * np.log(shares)).sum(), abs=1e-6)
    assert found.stable_rank == pytest.approx((known**2).sum() / known[0] ** 2, rel=1e-9)


@given(shapes)
def test_ranks_are_bounded(shape: tuple[int, int, int]) -> None:
    found, full = Spectrum.of(drawn(*shape)), min(shape[:2])
    assert 1 - 1e-9 <= found.stable_rank <= found.effective_rank + 1e-9 <= full + 1e-6
    assert 1 <= found.rank_for(0.9) <= found.rank_for(0.95) <= found.rank_for(0.99) <= found.rank_for(1.0) == full


@given(shapes, st.integers(0, 24))
def test_no_matrix_of_that_rank_is_nearer(shape: tuple[int, int, int], k: int) -> None:
    """Eckart–Young: numpy's truncation reaches the error, and a random one of the rank does not beat it."""
    matrix = drawn(*shape).double()
    k = min(k, *shape[:2])
    u, s, vt = np.linalg.svd(matrix.numpy(), full_matrices=False)
    bound = Spectrum.of(matrix).error(k)
    norm = np.linalg.norm(s)
    assert np.linalg.norm(matrix.numpy() - (u[:, :k] * s[:k]) @ vt[:k]) / norm == pytest.approx(bound, abs=1e-6)
    basis = np.linalg.qr(drawn(shape[0], max(k, 1), shape[2] + 1).double().numpy())[0][:, :k]
    assert np.linalg.norm(matrix.numpy() - basis @ (basis.T @ matrix.numpy())) / norm >= bound - 1e-6


def test_the_rank_for_an_energy_is_the_smallest() -> None:
    found = Spectrum(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64), 3, 5)  # energies 9, 4, 1 of 14
    assert [found.rank_for(level) for level in (0.6, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert found.stored_ratio(2) == 2 * 8 / 15
    assert found.error(1) == pytest.approx(math.sqrt(5 / 14))


def test_the_identity_is_as_complex_as_can_be() -> None:
    found = Spectrum.of(torch.eye(7))
    assert found.stable_rank == pytest.approx(7) and found.effective_rank == pytest.approx(7)
    assert found.entropy == pytest.approx(math.log(7))


def test_a_zero_matrix_has_no_rank() -> None:
    found = Spectrum.of(torch.zeros(4, 3))
    assert (found.stable_rank, found.effective_rank, found.rank_for(0.9), found.outliers) == (0, 0, 0, 0)


def test_blocks_of_rows_are_all_summed_up() -> None:
    tall = drawn(ROWS_AT_ONCE + 100, 5, 0)
    assert Spectrum.of(tall).frobenius == pytest.approx(float(tall.double().norm()), rel=1e-9)
    np.testing.assert_allclose(Spectrum.of(tall.T).values, Spectrum.of(tall).values, rtol=1e-9)


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (64, 512), (400, 50)])
@pytest.mark.parametrize("signals", [0, 1, 4])
def test_outliers_are_the_signals_in_noise(rows: int, columns: int, signals: int) -> None:
    for seed in range(3):
        noise = 0.3 * drawn(rows, columns, seed)
        planted = 0.6 * drawn(rows, signals, seed + 10) @ drawn(signals, columns, seed + 20)
        assert Spectrum.of(noise + planted).outliers == signals


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (64, 512), (400, 50)])
def test_a_signal_little_above_the_noise_is_one(rows: int, columns: int) -> None:
    """1.5 times the edge is seen, half of it drowns."""
    edge = 0.3 * (math.sqrt(rows) + math.sqrt(columns))
    left, right = (drawn(1, size, seed)[0] for size, seed in ((rows, 1), (columns, 2)))
    signal = torch.outer(left / left.norm(), right / right.norm())
    assert Spectrum.of(0.3 * drawn(rows, columns, 0) + 1.5 * edge * signal).outliers == 1
    assert Spectrum.of(0.3 * drawn(rows, columns, 0) + 0.5 * edge * signal).outliers == 0


def test_trained_energy_costs_what_gaussian_energy_costs() -> None:
    """FUSION section 2: 90/95/99 % of a Gaussian 512² need 51/61/77 % of the rank, 1.02/1.22/1.54 times the size."""
    found = Spectrum.of(drawn(512, 512, 0))
    ranks = [found.rank_for(level) for level in (0.9, 0.95, 0.99)]
    assert [round(rank / 512, 2) for rank in ranks] == [0.51, 0.61, 0.77]
    assert [round(found.stored_ratio(rank), 2) for rank in ranks] == pytest.approx([1.02, 1.22, 1.54], abs=0.015)
