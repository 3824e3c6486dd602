"""Marian's decoder (arXiv 1804.00344): BART's without a norm on the embedding, with sines and cosines in halves."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = bart.Size(vocab=58101, bos=None, eos=0, pad=58100)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    vocab = reader.count("vocab_size", SIZE.vocab)
    own = reader.count("decoder_vocab_size", optional=True) or vocab
    tied = reader.values.get("tie_word_embeddings", True)
    reader.require(own == vocab or tied, "decoder_vocab_size", own, f"must be {vocab} unless the head is tied")
    reader.values["vocab_size"] = own
    return bart.decoder(reader, SIZE, normed="after", positions=bart.sinusoids, embedding_norm=None, scale_inputs=True)


FAMILY = Family(
    model_type="marian",
    title="Marian (decoder of)",
    read=read,
    weights=bart_tables.weights(sinusoids=True, normed="after"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES,
    irrelevant=bart_tables.IRRELEVANT | {"share_encoder_decoder_embeddings": bart_tables.OF_ENCODER},
    rope="none",
    tiny=bart_tables.TINY | {"pad_token_id": 1, "tie_word_embeddings": False},
    draws=bart_tables.DRAWS,
)
