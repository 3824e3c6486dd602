"""What hybrids with Mamba-2 layers (arXiv 2405.21060) share in their configs and their proofs."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import StateSpace
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


PLAIN_DRAWS: dict[str, tuple[Any, ...]] = {
    "n_groups": (2, 1, 6),
    "conv_kernel": (4, 2),
    "chunk_size": (32, 7, 128),
    "use_bias": (False, True),
    "use_conv_bias": (True, False),
    "layer_norm_epsilon": (1e-5, 1e-3),
}
"""What families that keep Mamba-2's own keys share."""

OLD_ALIASES = {
    "mamba_n_groups": "n_groups",
    "mamba_d_conv": "conv_kernel",
    "mamba_expand": "expand",
    "mamba_dt_min": "time_step_min",
    "mamba_dt_max": "time_step_max",
    "mamba_dt_limit": "time_step_limit",
    "mamba_dt_init_floor": "time_step_floor",
    "mamba_conv_bias": "use_conv_bias",
    "mamba_chunk_size": "chunk_size",
}


def mamba2(
    reader: ConfigReader, width: int, *, norm: Norm | None, inner: int | None = None, **fields: Any
) -> StateSpace:
    """A state space under Bamba's keys; `inner` is its width, `mamba_d_ssm`, or else it is `mamba_expand` widths.

    The norm behind it goes over one slice per group.
    """
    expand, heads = reader.count("mamba_expand", 2), reader.count("mamba_n_heads", 128)
    head_dim = reader.take("mamba_d_head", "auto", kinds=(int, str))
    head_dim = (inner or expand * width) // heads if head_dim == "auto" else reader.count("mamba_d_head")
    if inner is not None:
        reader.agree("mamba_d_ssm", inner, heads * head_dim)
    reader.require(
        inner is not None or heads * head_dim == expand * width,
        "mamba_expand",
        expand,
        "times hidden_size must be heads · head_dim",
    )
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


def plain(reader: ConfigReader, *, chunk: int, **fields: Any) -> StateSpace:
    """A state space under Mamba-2's own keys, which stand for some of its fields."""
    groups = reader.count("n_groups", 8)
    return StateSpace(
        groups=groups,
        norm_groups=groups,
        convolution=reader.count("conv_kernel", 4),
        convolution_bias=reader.take("use_conv_bias", True),
        biases=("input", "output") if reader.take("use_bias", False) else (),
        chunk=reader.count("chunk_size", chunk),
        **fields,
    )


def step_range(reader: ConfigReader) -> tuple[float, float, float]:
    """Where Δ starts in training."""
    low, high = reader.number("time_step_min", 0.001), reader.number("time_step_max", 0.1)
    return low, high, reader.number("time_step_floor", 1e-4)


def kinds_by_letter(reader: ConfigReader, letters: Mapping[str, str]) -> tuple[str, ...]:
    """What each layer is: listed, or one letter of a pattern each, or all that there are in turn."""
    pattern = reader.take("hybrid_override_pattern", None, kinds=(str, type(None)))
    known = set(pattern or "") <= set(letters)
    reader.require(known, "hybrid_override_pattern", pattern, f"known: the letters {' '.join(letters)}")
    spelled = tuple(letters.get(letter, letter) for letter in pattern or letters)
    listed = reader.take("layers_block_type", None, kinds=(list, type(None)))
    depth = reader.count("num_hidden_layers", len(spelled if listed is None else listed))
    kinds = reader.names("layers_block_type", length=depth, known=tuple(letters.values()))
    fits = pattern is None or spelled == (kinds or spelled)
    reader.require(fits, "hybrid_override_pattern", pattern, "must say what layers_block_type says")
    reader.require(kinds is not None or depth == len(spelled), "num_hidden_layers", depth, f"known: {len(spelled)}")
    return kinds or (spelled * depth)[:depth]


def time_step_limit(reader: ConfigReader) -> tuple[float, float]:
    """What bounds Δ in a scan."""
    low, high = reader.numbers("time_step_limit", [0.0, inf], length=2)
    reader.require(0 <= low < high, "time_step_limit", [low, high], "must be two rising numbers of at least 0")
    return low, high


def projection_biases(reader: ConfigReader) -> Any:
    """The biases that `mamba_proj_bias` gives to both projections."""
    return ("input", "output") if reader.take("mamba_proj_bias", False) else ()


def rank(reader: ConfigReader, key: str, width: int) -> int:
    """The rank of Mamba's Δ: a sixteenth of the model's width unless it is said."""
    said = reader.take(key, "auto", kinds=(int, str))
    return -(-width // 16) if said == "auto" else reader.count(key)
