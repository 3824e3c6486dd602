"""A matrix by its singular values: norms, ranks, and what keeping the largest of them would cost to store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

ROWS_AT_ONCE, GRID = 4096, 4097


@dataclass(frozen=True)
class Spectrum:
    """Singular values of a `rows` × `columns` matrix, the largest first, in float64."""

    values: Float[Tensor, " rank"]
    rows: int
    columns: int

    @classmethod
    def of(cls, matrix: Float[Tensor, "rows columns"]) -> Spectrum:
        """From the smaller Gram matrix, summed up in float64 by blocks of rows: nothing as large as the matrix is made.

        Values below √(machine epsilon) = 1.5e-8 of the largest are noise.
        """
        tall = matrix.detach() if matrix.shape[0] >= matrix.shape[1] else matrix.detach().T
        gram = torch.zeros(tall.shape[1], tall.shape[1], dtype=torch.float64, device=matrix.device)
        for block in tall.split(ROWS_AT_ONCE):
            wide = block.double()
            gram.addmm_(wide.T, wide)
        values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
        return cls(values, *matrix.shape)

    @property
    def energies(self) -> Float[Tensor, " rank"]:
        """Each value's share of the squared Frobenius norm; of a zero matrix 0."""
        squares = self.values.square()
        return squares / squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)

    @property
    def frobenius(self) -> float:
        """√Σσ²."""
        return float(self.values.norm())

    @property
    def spectral_norm(self) -> float:
        """The largest σ."""
        return float(self.values[0])

    @property
    def stable_rank(self) -> float:
        """Σσ² / σ₁², between 1 and the rank; 0 for a zero matrix."""
        return (self.frobenius / self.spectral_norm) ** 2 if self.spectral_norm else 0.0

    @property
    def entropy(self) -> float:
        """H(σ²/Σσ²) in nats: how complex the spectrum is."""
        return float(-torch.xlogy(self.energies, self.energies).sum())

    @property
    def effective_rank(self) -> float:
        """exp(H(σ²/Σσ²)) (Roy and Vetterli 2007, there of σ), between 1 and the rank; 0 for a zero matrix."""
        return math.exp(self.entropy) if self.spectral_norm else 0.0

    def rank_for(self, energy: float) -> int:
        """The smallest k whose values hold that share of the squared norm."""
        kept = self.energies.cumsum(0)
        return min(len(kept), int((kept < energy * (1 - 1e-12)).sum()) + 1) if self.spectral_norm else 0

    def stored_ratio(self, k: int) -> float:
        """Numbers in two factors of rank k, over numbers in the matrix: k (m + n) / (m n)."""
        return k * (self.rows + self.columns) / (self.rows * self.columns)

    def error(self, k: int) -> float:
        """The smallest relative error of any matrix of rank k: √Σ_{i>k}σ² / √Σσ² (Eckart and Young 1936)."""
        return math.sqrt(max(0.0, float(self.energies[k:].sum())))

    @property
    def outliers(self) -> int:
        """Values beyond s(√m + √n), where those of noise of standard deviation s end (Marchenko and Pastur 1967).

        s is what noise with this median value has, on which outliers have no hold (Gavish and Donoho 2014); the edge is
        widened by rank^-2/3, within which the largest value of noise wavers.
        """
        short, long = sorted((self.rows, self.columns))
        spread = float(self.values.median()) / math.sqrt(long * _noise_median(short / long))
        edge = spread * (math.sqrt(short) + math.sqrt(long)) * (1 + short ** (-2 / 3))
        return int((self.values > edge).sum())


@lru_cache
def _noise_median(shape: float) -> float:
    """Median eigenvalue of XXᵀ / n for an m × n matrix X of unit noise with m / n = `shape`, as both grow."""
    low, high = (1 - math.sqrt(shape)) ** 2, (1 + math.sqrt(shape)) ** 2
    turn = torch.linspace(0, math.pi, GRID, dtype=torch.float64)
    at = (low + high) / 2 - (high - low) / 2 * turn.cos()  # dense at both edges, where the density is steep
    mass = (turn.sin().square() / at.clamp(min=1e-12)).cumsum(0)
    return float(at[torch.searchsorted(mass, mass[-1] / 2)])
