"""RoCBert (ACL 2022) as a decoder: BERT whose tokens have a shape and a sound beside them, of which none is said."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Beside
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import bert as plain
from nexus_universal.families.shared import bert, bert_tables
from nexus_universal.families.shared.reader import ConfigReader

FEATURES = (("shape", 24858, 512), ("pronunciation", 910, 768))
EMBEDDINGS = "roc_bert.embeddings"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; features that are not joined to tokens are only added where they are said."""
    joined, pad = reader.take("concat_input", True), reader.take("pad_token_id", 0, kinds=(int, type(None)))
    beside = []
    for name, count, width in FEATURES:
        used = reader.take(f"enable_{name}", True)
        table = Beside(
            name=name,
            count=reader.count(f"{name}_vocab_size", count),
            width=reader.count(f"{name}_embed_dim", width),
        )
        reader.require((pad or 0) < table.count, "pad_token_id", pad, f"must be less than {name}_vocab_size")
        beside += [table] * (used and joined)
    reader.require(bool(beside) or not joined, "concat_input", joined, "needs enable_shape or enable_pronunciation")
    return bert.decoder(reader, table={"beside": tuple(beside)}, transform={})


FAMILY = replace(
    plain.FAMILY,
    model_type="roc_bert",
    title="RoCBert",
    read=read,
    weights=bert_tables.weights(
        "roc_bert",
        bert_tables.PREDICTIONS,
        {f"embedding.beside.{name}": f"{EMBEDDINGS}.{name}_embed" for name, _, _ in FEATURES},
        {"embedding.joint": f"{EMBEDDINGS}.map_inputs_layer"},
        passed_over={r"\.(shape|pronunciation)_embed\.weight$": "features that are not joined to tokens"},
    ),
    tiny=bert_tables.TINY
    | {"shape_vocab_size": 11, "shape_embed_dim": 16, "pronunciation_vocab_size": 7, "pronunciation_embed_dim": 12},
    draws=bert_tables.DRAWS
    | {
        "enable_shape": (True, False),
        "concat_input": (True, True, True, False),
        "shape_embed_dim": (16, 20),
        "pronunciation_vocab_size": (7, 9),
    },
)
