"""BigBird-Pegasus' decoder (arXiv 2007.14062): full attention, written out, its biases optional; a head of its own."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables, common, draws
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(context=4096, vocab=96103, depth=16, bos=2, eos=1, pad=0, act="gelu_new", scaled=True)
OF_BLOCKS = dict.fromkeys(("attention_type", "block_size", "num_random_blocks"), bart_tables.OF_ENCODER)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    n = bart.decoder(
        reader,
        SIZE,
        normed="before",
        positions=bart.from_zero,
        embedding_norm=None,
        biases=common.ALL_BIASES if reader.take("use_bias", False) else (),
        kernel="eager_rounded",
    )
    return replace(n, head=Head(tied=False))


FAMILY = Family(
    model_type="bigbird_pegasus",
    title="BigBird-Pegasus (decoder of)",
    read=read,
    weights=bart_tables.weights({"final_norm": "model.decoder.layernorm_embedding"}, normed="before"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT
    | OF_BLOCKS
    | {"tie_word_embeddings": "the reference ties the head of the whole model only"},
    rope="none",
    tiny=bart_tables.TINY,
    draws=draws.without(bart_tables.DRAWS, "tie_word_embeddings")
    | {"scale_embedding": (True, False), "use_bias": (False, True)},
)
