"""RemBERT (arXiv 2010.12821) as a decoder: narrow tables, a wide head of its own; scores are divided."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Narrow
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables, draws
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = replace(bert.SIZE, vocab=250300, width=1152, inner=4608, depth=32, heads=18, bos=312, eos=313, tied=False)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    reader.inert("tie_word_embeddings", False)
    return bert.decoder(
        reader,
        SIZE,
        table={"narrow": Narrow(width=reader.count("input_embedding_size", 256))},
        transform={"width": reader.count("output_embedding_size", 1664)},
        kernel="eager_divided",
    )


FAMILY = replace(
    plain.FAMILY,
    model_type="rembert",
    title="RemBERT",
    read=read,
    weights=bert_tables.weights(
        "rembert",
        {
            "embedding.projection": "rembert.encoder.embedding_hidden_mapping_in",
            "head.transform.dense": "cls.predictions.dense",
            "head.transform.norm": "cls.predictions.LayerNorm",
            "head": "cls.predictions.decoder",
        },
    ),
    irrelevant=bert_tables.IRRELEVANT | {"classifier_dropout_prob": TRAINING},
    tiny=bert_tables.TINY | {"input_embedding_size": 24, "output_embedding_size": 56},
    draws=draws.without(bert_tables.DRAWS, "tie_word_embeddings")
    | {"input_embedding_size": (24, 48, 16), "output_embedding_size": (56, 40)},
)
