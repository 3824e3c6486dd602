"""RoFormer (arXiv 2104.09864) as a decoder: BERT with rotated heads instead of rows of positions."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Narrow
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Rope
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables
from nexus_universal.families.shared.reader import ConfigReader

SIZE = replace(bert.SIZE, context=1536, vocab=50000)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", SIZE.width)
    inner = reader.count("embedding_size", optional=True) or width
    reader.inert("rotary_value", False)
    return bert.decoder(
        reader,
        SIZE,
        table={"positions": None, "narrow": None if inner == width else Narrow(width=inner)},
        transform={"width": inner},
        rope=Rope(theta=10000.0, pairing="interleaved", frequencies="float64"),
        kernel="eager_divided",
    )


FAMILY = replace(
    plain.FAMILY,
    model_type="roformer",
    title="RoFormer",
    read=read,
    weights=bert_tables.weights(
        "roformer",
        bert_tables.PREDICTIONS,
        {"embedding.projection": "roformer.embeddings_project"},
        carried={r"\.embed_positions\.weight$": "sinusoids, which are computed"},
    ),
    tiny=bert_tables.TINY | {"embedding_size": 24},
    draws=bert_tables.DRAWS | {"embedding_size": (24, None, 48, 16)},
)
