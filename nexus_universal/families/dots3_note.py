"""dots3 Note with its vision and audio towers, of which the text model is built."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import dots3_note_text
from nexus_universal.families.shared import composite, draws, names
from nexus_universal.families.shared.family import Family, Section
from nexus_universal.families.shared.reader import ConfigReader

TEXT = Section(family=dots3_note_text.FAMILY)
OF_TOWERS = ("vision_config", "audio_config", "image_token_id", "video_token_id", "audio_token_id")
TOWERS = r"^(model\.)?(vision_tower|audio_tower|vision_encoder|audio_encoder|audio_adapter)\."


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config, whose text model is published outside of a section, and saved both there and in one."""
    if not reader.values["text_config"]:
        reader.inert("text_config", {})
        return TEXT.family.read(reader)
    n = composite.text_model(reader, TEXT, tied=None)
    if "num_hidden_layers" in reader.values:
        alike = TEXT.family.read(reader) == n
        reader.require(alike, "num_hidden_layers", reader.values["num_hidden_layers"], "text_config says otherwise")
    return n


FAMILY = Family(
    model_type="dots3_note",
    title="dots3 Note (text model of)",
    read=read,
    weights=names.relocated(
        TEXT.family.weights,
        *names.LANGUAGE_MODEL_OF_TEXT_CLASS,
        passed_over={TOWERS: "a tower, of which nothing is built"},
    ),
    aliases=TEXT.family.aliases,
    sections={"text_config": TEXT},
    left_out=("the vision tower", "the audio tower"),
    irrelevant={**TEXT.family.irrelevant, **composite.IRRELEVANT, **dict.fromkeys(OF_TOWERS, composite.OF_TOWERS)},
    rope="none",
    tiny={
        "text_config": dict(TEXT.family.tiny),
        "vision_config": {"adapter_out_dim": 48},
        "audio_config": {"adapter_out_dim": 48},
    },
    draws={
        "text_config": draws.mixtures(TEXT.family.tiny, draws.without(dict(TEXT.family.draws), "tie_word_embeddings"))
    },
)
