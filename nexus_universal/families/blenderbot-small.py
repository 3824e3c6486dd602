"""BlenderbotSmall's decoder: BART's, its tokens normed before learned positions, from row 0 on, are added."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables, draws
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(context=512, width=512, inner=2048, depth=8, bos=1, eos=2, pad=0)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(
        reader, SIZE, normed="after", positions=bart.from_zero, scaled=False, table={"norm_first": True}
    )


FAMILY = Family(
    model_type="blenderbot-small",
    title="BlenderbotSmall (decoder of)",
    read=read,
    weights=bart_tables.weights(normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT | {"scale_embedding": "kept by the reference, which scales nothing"},
    rope="none",
    tiny=bart_tables.TINY,
    draws=draws.without(bart_tables.DRAWS, "scale_embedding"),
)
