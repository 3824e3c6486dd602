"""Granite with windows (IBM): its multipliers, sinks, three windowed layers of four, a base of rotation per layer."""

from __future__ import annotations

from functools import partial

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import granite
from nexus_universal.families.shared import common, dense, names
from nexus_universal.families.shared import granite as shared
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=8192,
    vocab=100352,
    width=2560,
    inner=8192,
    depth=24,
    heads=20,
    kv_heads=4,
    bos=100257,
    eos=100257,
    tied=True,
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        mixers=partial(shared.windowed, reader),
        feed_forward=dense.gated_biases(reader),
        head={"divisor": reader.number("logits_scaling", 1.0)},
        scale=reader.number("attention_multiplier", 1.0),
        sinks=True,
        kernel="eager_gated",
        **dense.multipliers(reader),
    )


FAMILY = Family(
    model_type="granite_swa",
    title="Granite (windowed)",
    read=read,
    weights=names.weights(shared.SINKS),
    tiny={**granite.FAMILY.tiny, "tie_word_embeddings": False, "num_hidden_layers": 5, "sliding_window": 16},
    draws={
        **granite.FAMILY.draws,
        **shared.WINDOW_DRAWS,
        "head_dim": (16, 24),
        "tie_word_embeddings": (True, False),
    },
)
