"""`SemanticWeightAnalyzer`: every matrix of a model or a checkpoint, one after the other, in numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import slots
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.checkpoint.progress import with_progress
from nexus_universal.fusion.study.entropy import EXPONENTS, exponent_entropy, implied_share
from nexus_universal.fusion.study.matrices import KINDS, Kind, kind_of, matrices_in
from nexus_universal.fusion.study.spectrum import Spectrum
from nexus_universal.transformer import UniversalTransformer

LEVELS = (0.90, 0.95, 0.99)
COHERENCE_ROWS, NUMBERS_AT_ONCE = 2048, 1 << 22


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A tensor's numbers: `sparsity` is the share of zeros, `kurtosis` the excess over a normal distribution's."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    dtype: str
    mean: float
    std: float
    sparsity: float
    kurtosis: float
    exponent_entropy: float | None
    """Bits per exponent; None where numbers have none that is known."""
    coded_share: float | None
    """The size that coding the exponents would leave, relative to the plain one."""


@dataclass(frozen=True, kw_only=True)
class MatrixSemantics(Moments):
    """A matrix: its moments, and what its singular values say."""

    frobenius: float
    spectral_norm: float
    stable_rank: float
    effective_rank: float
    complexity: float
    """Entropy of σ²/Σσ² in nats."""
    rank_90: int
    rank_95: int
    rank_99: int
    stored_90: float
    """k (m + n) / (m n): above 1 two factors are larger than the matrix."""
    stored_95: float
    stored_99: float
    outliers: int
    """Singular values above Marchenko and Pastur's edge."""
    coherence: float | None = None
    """Of a table: the mean |cosine| of two rows; 1/√d · √(2/π) for random ones."""


@dataclass(frozen=True)
class WeightSemantics:
    """What was found in a model: `matrices`, and `vectors` such as gains and biases."""

    signature: str
    matrices: tuple[MatrixSemantics, ...]
    vectors: tuple[Moments, ...]

    def of_kind(self, kind: Kind) -> tuple[MatrixSemantics, ...]:
        """The matrices of one kind."""
        return tuple(matrix for matrix in self.matrices if matrix.kind == kind)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of which there are matrices."""
        return tuple(kind for kind in KINDS if self.of_kind(kind))

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), indent=2)


class SemanticWeightAnalyzer:
    """Moments, spectrum and entropy of every matrix; a checkpoint is read tensor by tensor and never held whole.

    Example:
        >>> found = SemanticWeightAnalyzer().analyze("Qwen/Qwen3-0.6B")
        >>> found.of_kind("attention")[0].effective_rank
    """

    def analyze(self, model: UniversalTransformer | str | PathLike[str], **hub: Any) -> WeightSemantics:
        """Look at a model in memory, or at a directory or repo id.

        Raises:
            CheckpointError: missing, truncated, unexpected or misshapen tensors; checked before any is read.
        """
        if isinstance(model, UniversalTransformer):
            held = slots(model)
            return self._all(model.n.signature, model, list(held), held.__getitem__)
        opened = open_checkpoint(model, UniversalTransformer, **hub)
        sizes = {name: slot.numel() for name, slot in opened.slots.items()}
        names = with_progress(sizes.__getitem__)(list(sizes))
        return self._all(opened.n.signature, opened.model, names, opened.read)

    def _all(self, signature: str, model: nn.Module, names: Any, read: Callable[[str], Tensor]) -> WeightSemantics:
        found = [each for name in names for each in self._tensor(model, name, read(name).detach())]
        matrices = tuple(each for each in found if isinstance(each, MatrixSemantics))
        return WeightSemantics(signature, matrices, tuple(each for each in found if type(each) is Moments))

    def _tensor(self, model: nn.Module, name: str, tensor: Tensor) -> Iterator[Moments]:
        if not tensor.is_floating_point() or not tensor.numel():
            return
        kind = kind_of(model, name)
        if tensor.dim() < 2:
            yield Moments(**moments(name, kind, tensor))
        for label, matrix in matrices_in(model, name, tensor):
            yield describe(label, kind, matrix)


def moments(name: str, kind: Kind, tensor: Tensor) -> dict[str, Any]:
    """The fields of `Moments`, in float64.

    Raises:
        InputError: a number that is not finite.
    """
    blocks, count = tensor.flatten().split(NUMBERS_AT_ONCE), tensor.numel()
    mean = sum(float(block.double().sum()) for block in blocks) / count
    if not math.isfinite(mean):
        raise InputError(f"{name} holds numbers that are not finite: nothing can be said of its spectrum")
    centred = ((block.double() - mean).square() for block in blocks)
    second, fourth = (sum(column) / count for column in zip(*map(_sums, centred), strict=True))
    has_exponent = tensor.dtype in EXPONENTS
    return {
        "name": name,
        "kind": kind,
        "shape": tuple(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "mean": mean,
        "std": math.sqrt(second),
        "sparsity": sum(int((block == 0).sum()) for block in blocks) / count,
        "kurtosis": fourth / second**2 - 3.0 if second else 0.0,
        "exponent_entropy": exponent_entropy(tensor) if has_exponent else None,
        "coded_share": implied_share(tensor) if has_exponent else None,
    }


def _sums(squares: Tensor) -> tuple[float, float]:
    return float(squares.sum()), float(squares.square().sum())


def describe(name: str, kind: Kind, matrix: Float[Tensor, "rows columns"]) -> MatrixSemantics:
    """One matrix in numbers."""
    known: dict[str, Any] = moments(name, kind, matrix)
    spectrum = Spectrum.of(matrix)
    low, middle, high = (spectrum.rank_for(level) for level in LEVELS)
    return MatrixSemantics(
        **known,
        frobenius=spectrum.frobenius,
        spectral_norm=spectrum.spectral_norm,
        stable_rank=spectrum.stable_rank,
        effective_rank=spectrum.effective_rank,
        complexity=spectrum.entropy,
        rank_90=low,
        rank_95=middle,
        rank_99=high,
        stored_90=spectrum.stored_ratio(low),
        stored_95=spectrum.stored_ratio(middle),
        stored_99=spectrum.stored_ratio(high),
        outliers=spectrum.outliers,
        coherence=coherence(matrix) if kind == "embedding" else None,
    )


def coherence(table: Float[Tensor, "rows columns"]) -> float:
    """The mean |cosine| of two different rows, of at most `COHERENCE_ROWS` spread over the table."""
    step = max(1, table.shape[0] // COHERENCE_ROWS)
    rows = table[::step].double()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    count = len(rows)
    return float(((rows @ rows.T).abs().sum() - rows.square().sum()) / max(1, count * (count - 1)))
