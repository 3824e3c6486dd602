"""Rotary embeddings under a `rope_parameters` section, and every scaling of them that configs name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nexus_universal.architecture.position import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ProportionalScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from nexus_universal.families.shared.reader import ConfigReader


def rope(
    reader: ConfigReader,
    *,
    context: int | None,
    takes_fraction: bool = False,
    nested: bool = False,
    kinds: Mapping[str, str] | None = None,
    original_context: int | None = None,
    **form: Any,
) -> Rope:
    """The rotation under a `rope_parameters` section.

    `takes_fraction`: whether this family honours a partial factor. `nested`: one section per layer type; the reference
    then looks for yarn's `truncate` in the wrong place, so only its default can be expressed. `kinds`: the types of
    rotation that this family knows, and what it takes them for. `original_context`: given where the config keeps it
    outside the section; it wins over one inside.
    """
    kind = reader.take("rope_type", "default", known=kinds or ("default", *SCALINGS))
    if original_context is not None and kind != "default":
        reader.values["original_max_position_embeddings"] = original_context
    if nested:
        reader.inert("truncate", True)
    scaling = SCALINGS[kind](reader, context) if kind != "default" else None
    fraction = reader.take("partial_rotary_factor", 1.0)
    if fraction != 1.0 and not takes_fraction and kind != "proportional":
        raise reader.refuse("partial_rotary_factor", fraction, "this family rotates whole heads: known: 1.0")
    return Rope(theta=reader.take("rope_theta", 10000.0), fraction=fraction, scaling=scaling, **form)


def _linear(reader: ConfigReader, context: int | None) -> Scaling:
    return LinearScaling(factor=reader.number("factor"))


def _dynamic(reader: ConfigReader, context: int | None) -> Scaling:
    return DynamicScaling(factor=reader.number("factor"), context=_known(reader, context))


def _llama3(reader: ConfigReader, context: int | None) -> Scaling:
    return Llama3Scaling(
        factor=reader.number("factor"),
        low_frequency_factor=reader.number("low_freq_factor"),
        high_frequency_factor=reader.number("high_freq_factor"),
        original_context=reader.count("original_max_position_embeddings"),
    )


def _context_ratio(reader: ConfigReader, context: int | None) -> tuple[float, int]:
    """The factor, or the ratio of the contexts where none is given; and the original context."""
    original = reader.count("original_max_position_embeddings")
    factor = reader.number("factor", None)
    return (_known(reader, context) / original if factor is None else factor), original


def _known(reader: ConfigReader, context: int | None) -> int:
    """A context that a scaling cannot do without."""
    if context is None:
        raise reader.refuse("rope_type", reader.values.get("rope_type"), "needs max_position_embeddings")
    return context


def _yarn(reader: ConfigReader, context: int | None) -> Scaling:
    factor, original = _context_ratio(reader, context)
    given = reader.number("attention_factor", None)
    mscale, of_all = reader.number("mscale", None) or None, reader.number("mscale_all_dim", None) or None
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=reader.number("beta_fast", None) or 32.0,
        beta_slow=reader.number("beta_slow", None) or 1.0,
        truncate=reader.take("truncate", True),
        attention_factor=given,
        mscale=mscale if of_all and given is None else None,
        mscale_all_dim=of_all,
    )


def _longrope(reader: ConfigReader, context: int | None) -> Scaling:
    factor, original = _context_ratio(reader, context)
    return LongRopeScaling(
        factor=factor,
        short_factors=reader.numbers("short_factor"),
        long_factors=reader.numbers("long_factor"),
        original_context=original,
        attention_factor=reader.number("attention_factor", None),
    )


def _proportional(reader: ConfigReader, context: int | None) -> Scaling:
    return ProportionalScaling(factor=reader.take("factor", 1.0))


SCALINGS: dict[str, Callable[[ConfigReader, int | None], Scaling]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
