"""ERNIE (arXiv 1904.09223, 2107.02137) as a decoder: BERT, to which rows of tasks may be added."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    tasks = reader.count("task_type_vocab_size", 3)
    return bert.decoder(reader, table={"tasks": tasks if reader.take("use_task_id", False) else None}, transform={})


FAMILY = replace(
    plain.FAMILY,
    model_type="ernie",
    title="ERNIE",
    read=read,
    weights=bert_tables.weights(
        "ernie", bert_tables.PREDICTIONS, {"embedding.tasks": "ernie.embeddings.task_type_embeddings"}
    ),
    draws=bert_tables.DRAWS | {"use_task_id": (False, True), "task_type_vocab_size": (3, 5)},
)
