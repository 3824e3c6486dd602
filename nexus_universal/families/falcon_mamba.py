"""Falcon Mamba (arXiv 2410.05355): Mamba whose Δ, B and C are normed without weights."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families import mamba
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return mamba.read(reader, Norm(kind="rms", eps=reader.number("mixer_rms_eps", 1e-6), scale="none"))


FAMILY = replace(
    mamba.FAMILY,
    model_type="falcon_mamba",
    title="Falcon Mamba",
    read=read,
    aliases={"use_falcon_mambapy": "use_mambapy"},
    draws={**mamba.FAMILY.draws, "mixer_rms_eps": (1e-6, 0.1)},
)
