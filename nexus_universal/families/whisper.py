"""Whisper's decoder (arXiv 2212.04356): norms before what a sublayer reads, scaled queries, keys without bias."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import bart, bart_tables, draws
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import GENERATION, TRAINING, ConfigReader

SIZE = bart.Size(context=448, vocab=51865, width=384, inner=1536, depth=4, heads=6, bos=50256, eos=50256, pad=50256)
OF_SOUND = ("num_mel_bins", "max_source_positions", "use_weighted_layer_sum", "classifier_proj_size")
MASKS = ("apply_spec_augment", *(f"mask_{axis}_{what}" for axis in ("time", "feature") for what in ("prob", "length")))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return bart.decoder(
        reader,
        SIZE,
        normed="before",
        positions=bart.from_zero,
        embedding_norm=None,
        scaled=False,
        scale_query=True,
        biases=("query", "value", "output"),
    )


FAMILY = Family(
    model_type="whisper",
    title="Whisper (decoder of)",
    read=read,
    weights=bart_tables.weights({"head": "proj_out"}, normed="before"),
    left_out=bart_tables.LEFT_OUT,
    aliases=bart_tables.ALIASES | {"max_target_positions": "max_position_embeddings"},
    irrelevant=bart_tables.IRRELEVANT
    | dict.fromkeys((*OF_SOUND, "num_key_value_heads"), bart_tables.OF_ENCODER)
    | dict.fromkeys((*MASKS, "mask_time_min_masks", "mask_feature_min_masks"), TRAINING)
    | dict.fromkeys(("median_filter_width", "forced_decoder_ids"), GENERATION)
    | {"scale_embedding": "kept by the reference, which scales nothing"},
    rope="none",
    tiny=draws.without(bart_tables.TINY, "max_position_embeddings", "forced_eos_token_id")
    | {"max_target_positions": 96, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1}
    | {"begin_suppress_tokens": None},
    draws=draws.without(bart_tables.DRAWS, "max_position_embeddings", "scale_embedding")
    | {"max_target_positions": (96, 90)},
)
