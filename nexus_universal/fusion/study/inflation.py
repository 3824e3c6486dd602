"""Inflate + PCA: blow a matrix up, keep the directions with most variance, map back. What happens, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.study.fidelity import Fidelity, Ids, fidelity, logits_of
from nexus_universal.fusion.study.spectrum import Spectrum
from nexus_universal.fusion.study.truncation import approximated, low_rank
from nexus_universal.transformer import UniversalTransformer

Inflation = Literal["orthonormal", "generic", "nonlinear"]

PROOFS: dict[Inflation, str] = {
    "orthonormal": (
        "X' = XA with AAᵀ = I gives X'X'ᵀ = XAAᵀXᵀ = XXᵀ: the same Gram matrix, so the same singular values and left "
        "vectors, and rank X' ≤ d. [XA]_k = [X]_k A, and A⁺ = Aᵀ maps it back to [X]_k: an exact no-op."
    ),
    "generic": (
        "X' = XA has rank ≤ d whatever D is. [XA]_k A⁺ is the best rank-k matrix in the metric AAᵀ, not in that of X; "
        "it has rank ≤ k, so ‖X − [XA]_k A⁺‖ ≥ √Σ_{i>k} σ_i² (Eckart–Young): never better than no inflation."
    ),
    "nonlinear": (
        "X' = φ(X) is computed from X, so that nothing can be learned from it that X does not hold (data processing). "
        "Its spectrum spreads over more directions; what k of them foretell linearly of X has rank ≤ k, so that the "
        "error is at least √Σ_{i>k} σ_i² (Eckart–Young): never better than no inflation."
    ),
}

Restored = tuple[Float[Tensor, "rows columns"], int]


@dataclass(frozen=True, kw_only=True)
class InflatedMatrix:
    """One matrix: how many components hold the energy, what comes back, and what plain truncation gives at that k."""

    name: str
    components: int
    direct_components: int
    error: float
    """‖W − W'‖ / ‖W‖ behind inflation, PCA and the way back."""
    direct_error: float
    """The same of the best matrix of that rank."""
    stored: float
    """k (m + n) / (m n)."""


@dataclass(frozen=True, kw_only=True)
class InflationReport:
    """What inflation to `dimension` and PCA at `energy` made of a model, beside plain truncation at the same ranks."""

    kind: Inflation
    dimension: int
    energy: float
    matrices: tuple[InflatedMatrix, ...]
    stored: float
    inflated: Fidelity
    direct: Fidelity

    @property
    def proof(self) -> str:
        """Why it cannot be better."""
        return PROOFS[self.kind]

    @property
    def error(self) -> float:
        """Root mean square of the matrices' relative errors."""
        return _mean_square([each.error for each in self.matrices])

    @property
    def direct_error(self) -> float:
        """The same of plain truncation."""
        return _mean_square([each.direct_error for each in self.matrices])

    def __str__(self) -> str:
        components = sum(each.components for each in self.matrices)
        without = sum(each.direct_components for each in self.matrices)
        return "\n".join(
            [
                f"{self.kind} inflation to D = {self.dimension}, PCA at {self.energy:.0%} of the energy",
                f"  {self.proof}",
                f"  components {components} (without inflation {without}), stored {self.stored:.2f} ×",
                f"  error {self.error:.4f}, of plain truncation at the same ranks {self.direct_error:.4f}",
                f"  inflated: {self.inflated}",
                f"  direct:   {self.direct}",
            ]
        )


def _mean_square(errors: list[float]) -> float:
    return math.sqrt(sum(error**2 for error in errors) / max(1, len(errors)))


def inflate_pca(
    model: UniversalTransformer,
    D: int,  # noqa: N803 - the letter of the formula
    kind: Inflation = "orthonormal",
    energy: float = 0.95,
    *,
    ids: Ids,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> InflationReport:
    """Inflate every matrix of the layers to D columns, keep `energy` by PCA, map back; R3, measured on `ids`, reported.

    PCA is of the rows as they are, without taking their mean off (with it, all ranks are at most one more).

    Raises:
        InputError: a D below a matrix's columns, an unknown kind, or an energy that is not in (0, 1].
    """
    if kind not in get_args(Inflation):
        raise InputError(f"kind = {kind!r} (known: {', '.join(get_args(Inflation))})")
    if not 0 < energy <= 1:
        raise InputError(f"energy = {energy} must lie in (0, 1]")
    found: list[InflatedMatrix] = []
    generator = torch.Generator().manual_seed(seed)

    def inflated(name: str, matrix: Tensor) -> Restored:
        wide = matrix.double()
        restored, k = restore(wide, D, kind, energy=energy, generator=generator)
        spectrum, size = Spectrum.of(wide), float(wide.norm()) or 1.0
        found.append(
            InflatedMatrix(
                name=name,
                components=k,
                direct_components=spectrum.rank_for(energy),
                error=float((wide - restored).norm()) / size,
                direct_error=spectrum.error(k),
                stored=spectrum.stored_ratio(k),
            )
        )
        return restored, k * sum(matrix.shape)

    changed, stored, _ = approximated(model, inflated)
    ranks = iter([each.components for each in found])
    direct, _, _ = approximated(model, lambda _, matrix: (low_rank(matrix, next(ranks)), 0))
    before = logits_of(model, ids)
    made = InflationReport(
        kind=kind,
        dimension=D,
        energy=energy,
        matrices=tuple(found),
        stored=stored,
        inflated=fidelity(before, logits_of(changed, ids), ids)[0],
        direct=fidelity(before, logits_of(direct, ids), ids)[0],
    )
    report(str(made))
    return made


def restore(
    matrix: Float[Tensor, "rows columns"], dimension: int, kind: Inflation, *, energy: float, generator: torch.Generator
) -> Restored:
    """The matrix behind inflation, PCA and the way back; and how many components PCA kept.

    Raises:
        InputError: a dimension below the matrix's columns.
    """
    columns = matrix.shape[1]
    if dimension < columns:
        raise InputError(f"D = {dimension} must be at least the {columns} columns of a matrix: less is no inflation")
    drawn = torch.randn(columns, dimension, dtype=torch.float64, generator=generator)
    if kind == "nonlinear":
        return _through_features(matrix, drawn, energy=energy, generator=generator)
    if kind == "orthonormal":
        drawn = torch.linalg.qr(drawn.T).Q.T
    left, values, right = torch.linalg.svd(matrix @ drawn, full_matrices=False)
    k = Spectrum(values, *matrix.shape).rank_for(energy)
    return (left[:, :k] * values[:k]) @ right[:k] @ torch.linalg.pinv(drawn), k


def _through_features(
    matrix: Float[Tensor, "rows columns"],
    drawn: Float[Tensor, "columns dimension"],
    *,
    energy: float,
    generator: torch.Generator,
) -> Restored:
    """√(2/D) cos(Xω + b), random Fourier features of a Gaussian kernel (Rahimi and Recht 2007), foretelling X linearly.

    ω is scaled so that a row's phase has a standard deviation of 1.
    """
    phases = 2 * math.pi * torch.rand(drawn.shape[1], dtype=torch.float64, generator=generator)
    typical = matrix.norm() / math.sqrt(matrix.shape[0])
    features = math.sqrt(2 / drawn.shape[1]) * torch.cos(matrix @ drawn / typical + phases)
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    k = Spectrum(values, *matrix.shape).rank_for(energy)
    return left[:, :k] @ (left[:, :k].T @ matrix), k
