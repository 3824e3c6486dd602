"""Matrices of lower rank: what the SVD keeps, plain or in the metric of what the matrix really reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.fusion.retention import RetentionCertificate, Tier, certified
from nexus_universal.fusion.study.fidelity import Fidelity, Ids, fidelity, logits_of
from nexus_universal.fusion.study.matrices import compressible
from nexus_universal.transformer import UniversalTransformer

TIER = Tier.STATISTICAL
RIDGE = 1e-6
"""Of the mean variance, added to each direction: inputs that never occurred are not free."""

Metric = Float[Tensor, "columns columns"]
Approximate = Callable[[str, Float[Tensor, "rows columns"]], tuple[Tensor, int]]
"""From a slot's name and a matrix to an approximation, and the numbers it takes to store it."""


@dataclass(frozen=True)
class Point:
    """One point of a rate–retention curve: `stored` is the share of the matrices' numbers that is kept."""

    method: str
    stored: float
    stored_of_model: float
    fidelity: Fidelity


def low_rank(
    matrix: Float[Tensor, "rows columns"], k: int, metric: Metric | None = None
) -> Float[Tensor, "rows columns"]:
    """The W' of rank k nearest to W: in ‖W − W'‖ (Eckart–Young), or with a `metric` C = E xxᵀ in E‖(W − W')x‖².

    With C = S Sᵀ the latter is [W S]_k S⁻¹ (SVD-LLM, arXiv 2403.07378).
    """
    wide = matrix.detach().double()
    if metric is None:
        return _cut(wide, k).to(matrix.dtype)
    level = metric.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    root = torch.linalg.cholesky(metric + RIDGE * level * torch.eye(len(metric), dtype=metric.dtype))
    return torch.linalg.solve_triangular(root, _cut(wide @ root, k), upper=False, left=False).to(matrix.dtype)


def _cut(matrix: Float[Tensor, "rows columns"], k: int) -> Float[Tensor, "rows columns"]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return (left[:, :k] * values[:k]) @ right[:k]


def rank_within(shape: Iterable[int], stored: float) -> int:
    """The largest rank whose two factors take no more than that share of the matrix's numbers; at least 1."""
    rows, columns = shape
    return max(1, int(stored * rows * columns / (rows + columns) + 1e-9))


@torch.no_grad()
def input_metrics(model: UniversalTransformer, ids: Ids) -> dict[str, Metric]:
    """E xxᵀ of what each linear projection of the layers reads, over all positions of `ids`; experts' stacks apart."""
    wanted = {name for name in compressible(model) if name.endswith(".weight")}
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def seen(_: nn.Module, given: tuple[Any, ...]) -> None:
            x = given[0].detach().flatten(0, -2).double()
            sums[name] = sums.get(name, torch.zeros(())) + x.T @ x / ids.numel()

        return seen

    with ExitStack() as hooks:
        for name in wanted:
            module = model.get_submodule(name.removesuffix(".weight"))
            if isinstance(module, nn.Linear):
                hooks.callback(module.register_forward_pre_hook(watch(name)).remove)
        logits_of(model, ids)
    return sums


@torch.no_grad()
def approximated(model: UniversalTransformer, approximate: Approximate) -> tuple[UniversalTransformer, float, float]:
    """A copy whose layers' matrices are approximated; the share of their numbers that is stored, and of the model's.

    Raises:
        InputError: no layer has a matrix.
    """
    changed, stored, size = copy.deepcopy(model), 0, 0
    for name in compressible(model):
        tensor = slots(model)[name].detach()
        matrices = tensor if tensor.dim() == 3 else tensor[None]
        found = [approximate(name, matrix) for matrix in matrices]
        stored += sum(numbers for _, numbers in found)
        size += tensor.numel()
        put(changed, name, torch.stack([matrix for matrix, _ in found]).view_as(tensor).to(tensor.dtype))
    if not size:
        raise InputError(f"no layer of this model has a matrix to truncate: {model.n.signature}")
    whole = sum(parameter.numel() for parameter in model.parameters())
    return changed, stored / size, (whole - size + stored) / whole


def truncate(
    model: UniversalTransformer, stored: float, *, metrics: Mapping[str, Metric] | None = None
) -> tuple[UniversalTransformer, float, float]:
    """Every matrix of the layers at the largest rank that `stored` of its numbers hold, in its metric if one is known.

    Where two factors would be no smaller, a matrix stays as it is. Returns the model, and the shares that are really
    stored of its matrices and of all its parameters.

    Raises:
        InputError: a share that is not in (0, 1].
    """
    if not 0 < stored <= 1:
        raise InputError(f"stored = {stored} must lie in (0, 1]: more is no compression")

    def cut(name: str, matrix: Tensor) -> tuple[Tensor, int]:
        k = rank_within(matrix.shape, stored)
        if stored == 1 or k * sum(matrix.shape) >= matrix.numel():
            return matrix, matrix.numel()
        return low_rank(matrix, k, (metrics or {}).get(name)), k * sum(matrix.shape)

    return approximated(model, cut)


def rate_retention(
    model: UniversalTransformer,
    ids: Ids,
    *,
    shares: Iterable[float] = (0.9, 0.75, 0.5, 0.25, 0.1),
    calibration: Ids | None = None,
) -> tuple[list[Point], RetentionCertificate]:
    """What is left on `ids` at each share that is stored, plain and, given `calibration` text, whitened: R3."""
    before, points, evidence = logits_of(model, ids), [], []
    methods: dict[str, Mapping[str, Metric] | None] = {"svd": None}
    if calibration is not None:
        methods["whitened"] = input_metrics(model, calibration)
    for method, metrics in methods.items():
        for share in shares:
            changed, stored, whole = truncate(model, share, metrics=metrics)
            found, shown = fidelity(before, logits_of(changed, ids), ids)
            points.append(Point(method, stored, whole, found))
            evidence.append(shown)
    return points, certified("truncate", TIER, *evidence)


def points_to_json(points: Iterable[Point]) -> str:
    """A curve as JSON."""
    return json.dumps([asdict(point) for point in points], indent=2)
