"""GIT (arXiv 2205.14100): a decoder of BERT's layers behind an image encoder, which is left out."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bert, bert_tables, composite, draws
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = replace(bert.SIZE, context=1024, depth=6, bos=101, eos=102, tied=False)
IMAGES = {r"^git\.(image_encoder|visual_projection|img_temporal_embedding)\.": "reads images, which are left out"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bert.decoder(reader, SIZE, decodes=True, types=None, kernel="eager_divided")


FAMILY = Family(
    model_type="git",
    title="GIT (text model of)",
    read=read,
    weights=bert_tables.weights("git", {"head": "output"}, carried=IMAGES),
    left_out=("the image encoder",),
    irrelevant=bert_tables.IRRELEVANT
    | dict.fromkeys(("vision_config", "num_image_with_embedding"), composite.OF_TOWERS),
    rope="none",
    tiny=draws.without(bert_tables.TINY, "is_decoder") | {"vision_config": draws.TINY_VISION},
    draws=draws.without(bert_tables.DRAWS, "type_vocab_size"),
)
