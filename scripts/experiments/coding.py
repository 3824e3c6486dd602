"""Bits that weights really hold: coded exponents, bytes, and fine-tunes and strangers seen from a base.

python scripts/experiments/coding.py
"""

from __future__ import annotations

from typing import Any

import torch
from common import CHECKPOINTS, SEEDS, experiment, show, spread, trained
from torch import Tensor

from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion.study.entropy import (
    byte_planes,
    compressed_share,
    exponent_entropy,
    implied_share,
    plane_entropies,
)

STEPS = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def matrices(name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A checkpoint's matrices in that dtype."""
    held = slots(trained(name)).items()
    return {slot: tensor.detach().to(dtype) for slot, tensor in held if tensor.dim() > 1}


def moved(tensors: dict[str, Tensor], step: float, seed: int) -> dict[str, Tensor]:
    """Every number moved by a normal step of `step` times its matrix's standard deviation: a fine-tune's size."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (wide + step * wide.std() * torch.randn(wide.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in tensors.items()
        for wide in [tensor.float()]
    }


def stranger(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Numbers of the same distributions at other places: a model that has nothing to do with this one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor)
        for name, tensor in tensors.items()
    }


def sizes(tensors: dict[str, Tensor], base: dict[str, Tensor] | None = None) -> dict[str, float]:
    """Relative sizes: what entropies of bytes imply, and what a compressor reaches."""
    planes = torch.cat([byte_planes(each, base[name] if base else None) for name, each in tensors.items()], dim=1)
    return {"implied": sum(plane_entropies(planes)) / 8 / len(planes), "measured": compressed_share(planes)}


def run() -> dict[str, Any]:
    """Alone, and seen from a base."""
    alone, seen = [], []
    for name in CHECKPOINTS:
        for label, dtype in DTYPES.items():
            tensors = matrices(name, dtype)
            joined = torch.cat([tensor.flatten() for tensor in tensors.values()])
            exponent = {"exponent_bits": exponent_entropy(joined), "exponent_coded": implied_share(joined)}
            alone.append({"model": name, "dtype": label, **exponent, **sizes(tensors)})
            if name != CHECKPOINTS[0]:
                continue
            for step in (*STEPS, None):
                others = [stranger(tensors, seed) if step is None else moved(tensors, step, seed) for seed in SEEDS]
                seen.append({"dtype": label, "step": step, "runs": [sizes(other, tensors) for other in others],
                             "alone": sizes(others[0])})  # fmt: skip
    show("alone", ("model", "dtype", "bits per exponent", "exponents coded", "bytes' entropy", "zstandard"),
         [alone_row(row) for row in alone])  # fmt: skip
    show(
        "exclusive or with a base",
        ("step", "dtype", "bytes' entropy", "zstandard", "alone"),
        [seen_row(row) for row in seen],
    )
    return {"alone": alone, "from_base": seen, "base": CHECKPOINTS[0]}


def alone_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the first table."""
    shares = (f"{row[key]:.1%}" for key in ("exponent_coded", "implied", "measured"))
    return (row["model"], row["dtype"], f"{row['exponent_bits']:.2f}", *shares)


def seen_row(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the second table."""
    label = "another model" if row["step"] is None else f"{row['step']:g}"
    shares = (spread([100 * run[key] for run in row["runs"]], ".1f") + " %" for key in ("implied", "measured"))
    return (label, row["dtype"], *shares, f"{row['alone']['measured']:.1%}")


def draw(found: dict[str, Any], axes: Any) -> None:
    """Sizes of fine-tunes against their step."""
    for axis, dtype in zip(axes, DTYPES, strict=True):
        rows = [row for row in found["from_base"] if row["dtype"] == dtype]
        tuned = [row for row in rows if row["step"] is not None]
        for key in ("implied", "measured"):
            heights = [sum(run[key] for run in row["runs"]) / len(row["runs"]) for row in tuned]
            axis.plot(
                [row["step"] for row in tuned],
                heights,
                "o-",
                label={"implied": "entropy", "measured": "zstandard"}[key],
            )
        other = next(row for row in rows if row["step"] is None)
        axis.axhline(other["runs"][0]["measured"], color="black", linewidth=0.8, label="another model")
        axis.set_xscale("log")
        axis.set_ylim(0, 1.05)
        axis.set_title(dtype, fontsize=10)
        axis.set_xlabel("relative step of the fine-tune")
        axis.set_ylabel("size, relative to plain")
        axis.legend(fontsize=7)


if __name__ == "__main__":
    experiment("coding", run, draw=draw)
