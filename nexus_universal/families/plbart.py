"""PLBART's decoder (arXiv 2103.06333): BART's, smaller, its embedding scaled."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(vocab=50005, width=768, inner=3072, depth=6, heads=12, scaled=True)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(reader, SIZE, normed="after", positions=bart.offset_by_two)


FAMILY = Family(
    model_type="plbart",
    title="PLBART (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT,
    rope="none",
    tiny=bart_tables.TINY,
    draws=bart_tables.DRAWS | {"scale_embedding": (True, False)},
)
