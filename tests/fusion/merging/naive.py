"""The methods' formulas once more, tensor by tensor and number by number, for the tests to compare with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def slerp(a: Array, b: Array, t: float) -> Array:
    angle = math.acos(float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)))
    return (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)


def karcher(tensors: Sequence[Array], steps: int = 200) -> Array:
    """Gradient descent on the sphere in the full space, one small step after the other."""
    units = [x / np.linalg.norm(x) for x in tensors]
    mean = sum(units) / np.linalg.norm(sum(units))
    for _ in range(steps):
        pull = np.zeros_like(mean)
        for unit in units:
            cosine = float(np.clip((mean * unit).sum(), -1, 1))
            flat = unit - cosine * mean
            if np.linalg.norm(flat) > 1e-12:
                pull += math.acos(cosine) * flat / np.linalg.norm(flat) / len(units)
        far = np.linalg.norm(pull)
        if far < 1e-14:
            break
        mean = math.cos(far) * mean + math.sin(far) * pull / far
    return mean * np.mean([np.linalg.norm(x) for x in tensors])


def multislerp(tensors: Sequence[Array], weights: Sequence[float]) -> Array:
    shares = np.array(weights) / sum(weights)
    units = [x / np.linalg.norm(x) for x in tensors]
    mean = sum(w * u for w, u in zip(shares, units, strict=True))
    mean = mean / np.linalg.norm(mean)
    flat = sum(w * (u - (u * mean).sum() * mean) for w, u in zip(shares, units, strict=True))
    far = np.linalg.norm(flat)
    length = sum(w * np.linalg.norm(x) for w, x in zip(shares, tensors, strict=True))
    return length * (math.cos(far) * mean + math.sin(far) / max(far, 1e-12) * flat)


def ties(base: Array, tensors: Sequence[Array], weights: Sequence[float], densities: Sequence[float]) -> Array:
    out = base.copy()
    trimmed = []
    for x, density in zip(tensors, densities, strict=True):
        difference = (x - base).flatten()
        keep = max(1, int(density * difference.size))
        for place in np.argsort(np.abs(difference))[: difference.size - keep]:
            difference[place] = 0
        trimmed.append(difference.reshape(base.shape))
    for place in np.ndindex(base.shape):
        weighed = [w * d[place] for w, d in zip(weights, trimmed, strict=True)]
        sign = 1 if sum(weighed) >= 0 else -1
        agreeing = [(w, v) for w, v in zip(weights, weighed, strict=True) if v * sign > 0]
        if agreeing:
            out[place] += sum(v for _, v in agreeing) / sum(w for w, _ in agreeing)
    return out


def breadcrumbs(base: Array, x: Array, density: float, gamma: float) -> Array:
    difference = (x - base).flatten()
    order = np.argsort(np.abs(difference))
    kept = int(density * difference.size)
    end = difference.size - min(int(gamma * difference.size), difference.size - kept)
    mask = np.zeros_like(difference)
    mask[order[end - kept : end]] = 1
    return base + (difference * mask).reshape(base.shape)


def sce(base: Array, tensors: Sequence[Array], share: float) -> Array:
    differences = np.stack([x - base for x in tensors])
    variance = differences.var(axis=0)
    count = int(np.count_nonzero(variance) * share)
    chosen = np.zeros(variance.size)
    chosen[np.argsort(-variance.flatten())[:count]] = 1
    differences = differences * chosen.reshape(variance.shape)
    energy = np.array([(d**2).sum() for d in differences])
    energy = energy / energy.sum()
    out = base.copy()
    for place in np.ndindex(base.shape):
        sign = 1 if sum(d[place] for d in differences) >= 0 else -1
        agreeing = [(e, d[place]) for e, d in zip(energy, differences, strict=True) if d[place] * sign > 0]
        if agreeing:
            out[place] += sum(e * d for e, d in agreeing) / sum(e for e, _ in agreeing)
    return out


def model_stock(base: Array, tensors: Sequence[Array]) -> Array:
    differences = [(x - base).flatten() for x in tensors]
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for i, a in enumerate(differences) for b in differences[i + 1 :]
    ]
    k, cosine = len(tensors), float(np.mean(cosines))
    t = k * cosine / (1 + (k - 1) * cosine)
    return t * sum(tensors) / k + (1 - t) * base
