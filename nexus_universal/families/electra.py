"""ELECTRA (arXiv 2003.10555), its generator, as a decoder: BERT with tables and a head narrower than the model."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Narrow
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables
from nexus_universal.families.shared.reader import LABELS, ConfigReader

SIZE = replace(bert.SIZE, width=256, inner=1024, heads=4)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    inner = reader.count("embedding_size", 128)
    narrow = None if inner == reader.count("hidden_size", SIZE.width) else Narrow(width=inner)
    return bert.decoder(reader, SIZE, table={"narrow": narrow}, transform={"width": inner, "activation": "gelu"})


FAMILY = replace(
    plain.FAMILY,
    model_type="electra",
    title="ELECTRA",
    read=read,
    weights=bert_tables.weights(
        "electra",
        {
            "embedding.projection": "electra.embeddings_project",
            "head.transform.dense": "generator_predictions.dense",
            "head.transform.norm": "generator_predictions.LayerNorm",
            "head": "generator_lm_head",
        },
    ),
    irrelevant={
        **bert_tables.IRRELEVANT,
        **dict.fromkeys(("summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"), LABELS),
    },
    tiny=bert_tables.TINY | {"embedding_size": 24},
    draws=bert_tables.DRAWS | {"embedding_size": (24, 48, 16)},
)
