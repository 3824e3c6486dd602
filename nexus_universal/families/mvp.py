"""MVP's decoder (arXiv 2206.12131): BART's, its attention written out and scaled in the query."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(vocab=50267)
OF_PROMPTS = "speaks of prompts, which the decoder alone has none of"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(
        reader, SIZE, normed="after", positions=bart.offset_by_two, kernel="eager_rounded", scale_query=True
    )


FAMILY = Family(
    model_type="mvp",
    title="MVP (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT | dict.fromkeys(("use_prompt", "prompt_length", "prompt_mid_dim"), OF_PROMPTS),
    rope="none",
    tiny=bart_tables.TINY,
    draws=bart_tables.DRAWS,
)
