"""TrOCR's decoder (arXiv 2109.10282): BART's, its attention written out; the embedding's norm may lack, or be fixed."""

from __future__ import annotations

from functools import partial

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import SinusoidPositions
from nexus_universal.families.shared import bart, bart_tables, draws
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

OWN = ("num_hidden_layers", "num_attention_heads")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    learned = reader.take("use_learned_position_embeddings", True)
    pad = reader.take("pad_token_id", 1, kinds=(int, type(None)))
    given = pad is not None and pad >= 0
    reader.require(learned or given, "pad_token_id", pad, "must be given: fixed positions begin behind it")
    return bart.decoder(
        reader,
        bart.Size(context=512),
        normed="after",
        positions=bart.offset_by_two if learned else partial(behind_pads, pad=pad or 0),
        embedding_norm=bart.NORM if reader.take("layernorm_embedding", True) else None,
        kernel="eager_rounded",
        scale_query=True,
    )


def behind_pads(context: int, *, pad: int) -> SinusoidPositions:
    """fairseq's sinusoids: pads do not count, and have an empty row."""
    return SinusoidPositions(
        count=context + pad + 1, offset=pad + 1, layout="sin_cos", closed=True, zero=pad, uncounted=pad
    )


FAMILY = Family(
    model_type="trocr",
    title="TrOCR (decoder of)",
    read=read,
    weights=bart_tables.weights({"head": "output_projection"}, normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES
    | {"num_attention_heads": "decoder_attention_heads", "num_hidden_layers": "decoder_layers"},
    irrelevant=draws.without(bart_tables.IRRELEVANT, *OWN) | {"cross_attention_hidden_size": bart_tables.OF_ENCODER},
    rope="none",
    tiny=bart_tables.TINY,
    draws=draws.without(bart_tables.DRAWS, "pad_token_id")
    | {
        "pad_token_id": (1, 0, 3),
        "use_learned_position_embeddings": (True, False),
        "layernorm_embedding": (True, False),
    },
)
