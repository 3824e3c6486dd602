"""BART's decoder (arXiv 1910.13461): norms after each sum, learned positions from row 2 on, a norm on the embedding."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(reader, bart.Size(), normed="after", positions=bart.offset_by_two)


FAMILY = Family(
    model_type="bart",
    title="BART (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT,
    rope="none",
    tiny=bart_tables.TINY,
    draws=bart_tables.DRAWS,
)
