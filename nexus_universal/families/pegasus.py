"""PEGASUS' decoder (arXiv 1912.08777): norms before what a sublayer reads, sines and cosines in two halves."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(bos=None, eos=1, pad=0)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(reader, SIZE, normed="before", positions=bart.sinusoids, embedding_norm=None, scale_inputs=True)


FAMILY = Family(
    model_type="pegasus",
    title="PEGASUS (decoder of)",
    read=read,
    weights=bart_tables.weights(sinusoids=True, normed="before"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT,
    rope="none",
    tiny=bart_tables.TINY | {"tie_word_embeddings": False},
    draws=bart_tables.DRAWS,
)
