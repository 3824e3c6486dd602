"""What hybrids with Mamba-2 layers (arXiv 2405.21060) share in their configs and their proofs."""

from __future__ import annotations

from math import inf
from typing import Any

from nexus_universal.architecture.mixers import StateSpace
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common
from nexus_universal.families.shared.reader import GENERATION, ConfigReader

IRRELEVANT = {"num_logits_to_keep": GENERATION}

TINY: dict[str, Any] = {
    "mamba_n_heads": 6,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 10,
    "mamba_chunk_size": 32,
}
"""Beside a width of 48."""

DRAWS: dict[str, tuple[Any, ...]] = {
    "mamba_n_groups": (2, 1, 6),
    "mamba_d_state": (10, 16),
    "mamba_d_head": (16, "auto"),
    "mamba_d_conv": (4, 2),
    "mamba_chunk_size": (32, 7, 128),
    "mamba_conv_bias": (True, False),
    "mamba_proj_bias": (False, True),
    "time_step_limit": ([0.0, inf], [0.3, 0.9]),
}


def mamba2(
    reader: ConfigReader, width: int, *, norm: Norm | None, inner: int | None = None, **fields: Any
) -> StateSpace:
    """A state space under Bamba's keys; `inner` is its width where that is not `mamba_expand` times the model's.

    The norm behind it goes over one slice per group.
    """
    expanded = width * reader.count("mamba_expand", 2)
    heads, inner = reader.count("mamba_n_heads", 128), inner or expanded
    head_dim = reader.take("mamba_d_head", "auto", kinds=(int, str))
    head_dim = inner // heads if head_dim == "auto" else reader.count("mamba_d_head")
    reader.require(heads * head_dim == inner, "mamba_d_head", head_dim, f"times mamba_n_heads must be {inner}")
    groups = reader.count("mamba_n_groups", 1)
    return StateSpace(
        heads=heads,
        head_dim=head_dim,
        state_dim=reader.count("mamba_d_state", 256),
        groups=groups,
        convolution=reader.count("mamba_d_conv", 4),
        norm=norm,
        norm_groups=groups if norm else 1,
        activation=common.activation(reader),
        time_step=time_step_limit(reader),
        convolution_bias=reader.take("mamba_conv_bias", True),
        chunk=reader.count("mamba_chunk_size", 256),
        **fields,
    )


def time_step_limit(reader: ConfigReader) -> tuple[float, float]:
    """What bounds Δ in a scan."""
    low, high = reader.numbers("time_step_limit", [0.0, inf], length=2)
    reader.require(0 <= low < high, "time_step_limit", [low, high], "must be two rising numbers of at least 0")
    return low, high


def projection_biases(reader: ConfigReader) -> tuple[str, ...]:
    """The biases that `mamba_proj_bias` gives to both projections."""
    return ("input", "output") if reader.take("mamba_proj_bias", False) else ()
