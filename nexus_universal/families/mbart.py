"""mBART's decoder (arXiv 2001.08210): BART's with norms before what a sublayer reads."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(reader, bart.Size(), normed="before", positions=bart.offset_by_two)


FAMILY = Family(
    model_type="mbart",
    title="mBART (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="before"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT,
    rope="none",
    tiny=bart_tables.TINY,
    draws=bart_tables.DRAWS,
)
