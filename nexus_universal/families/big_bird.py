"""BigBird (arXiv 2007.14062) as a decoder: BERT with full attention, whose scores are divided; scaled token rows."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables, common
from nexus_universal.families.shared.reader import ConfigReader

SIZE = replace(bert.SIZE, context=4096, vocab=50358, bos=1, eos=2)
SPARSE = "speaks of sparse attention"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; sparse blocks see what comes after them in the reference, decoder or not."""
    kind = reader.take("attention_type", "block_sparse", known=("original_full", "block_sparse"))
    reader.require(kind == "original_full", "attention_type", kind, "must be 'original_full': sparse blocks look ahead")
    scaled = reader.take("rescale_embeddings", False)
    scale = {"scale": reader.count("hidden_size", SIZE.width) ** 0.5, "scale_inputs": True} if scaled else {}
    biases = common.ALL_BIASES if reader.take("use_bias", True) else ("output",)
    return bert.decoder(reader, SIZE, table=scale, transform={}, act="gelu_new", biases=biases, kernel="eager_divided")


FAMILY = replace(
    plain.FAMILY,
    model_type="big_bird",
    title="BigBird",
    read=read,
    weights=bert_tables.weights(
        "bert", bert_tables.PREDICTIONS, carried={r"\.pooler\.": "a pooler, which no logit depends on"}
    ),
    irrelevant=bert_tables.IRRELEVANT | dict.fromkeys(("block_size", "num_random_blocks"), SPARSE),
    completes=bert_tables.COMPLETES | {"attention_type": "original_full"},
    tiny=bert_tables.TINY | {"attention_type": "original_full"},
    draws=bert_tables.DRAWS | {"use_bias": (True, False), "rescale_embeddings": (False, True)},
)
