"""Blenderbot's decoder (arXiv 2004.13637): norms before what a sublayer reads, learned positions from row 0 on."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(context=128, vocab=8008, width=2560, inner=10240, depth=24, heads=32, bos=1, eos=2, pad=0)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(reader, SIZE, normed="before", positions=bart.from_zero, embedding_norm=None)


FAMILY = Family(
    model_type="blenderbot",
    title="Blenderbot (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="before"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT,
    rope="none",
    tiny=bart_tables.TINY | {"encoder_layers": 3, "encoder_no_repeat_ngram_size": 0},
    draws=bart_tables.DRAWS,
)
