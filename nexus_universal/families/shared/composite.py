"""Models with towers, of which the text model is built: its config is a section of theirs, its names lie deeper."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared.family import Section
from nexus_universal.families.shared.reader import ConfigReader

OF_TOWERS = "speaks of a tower, of which nothing is built"
IRRELEVANT = {"initializer_range": "each model says its own", "use_cache": "the text model says its own"}
DTYPES = (None, "float32", "float16", "bfloat16", "float64")


def text_model(
    reader: ConfigReader, section: Section, *, key: str = "text_config", tied: bool | None
) -> ArchitectureParameter:
    """The n of the text model: whether its head is tied, and special tokens and dtype if given, are said outside.

    `tied` None: the text model says itself whether its head is tied, and outside nothing else may be said.
    """
    n = section.read(reader, key)
    eos = reader.take("eos_token_id", None, kinds=(int, list, type(None)))
    text = replace(
        n.text,
        bos=reader.take("bos_token_id", n.text.bos, kinds=(int, type(None))),
        eos=n.text.eos if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        pad=reader.take("pad_token_id", n.text.pad, kinds=(int, type(None))),
        dtype=reader.take("dtype", None, known=DTYPES) or n.text.dtype,
    )
    if tied is None:
        reader.inert("tie_word_embeddings", n.head.tied)
        return replace(n, text=text)
    return replace(n, text=text, head=replace(n.head, tied=reader.take("tie_word_embeddings", tied)))
