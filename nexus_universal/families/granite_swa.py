"""Granite with windows (IBM): its multipliers, sinks, three windowed layers of four, a base of rotation per layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import granite
from nexus_universal.families.shared import common, dense, names
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
CYCLE = ("full_attention", *("sliding_attention",) * 3)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""

    def mixers(full: Attention, depth: int) -> Iterable[Attention]:
        assert full.rope is not None
        sliding = replace(full, window=reader.count("sliding_window", 128))
        mixed = common.windowed(common.cycled_types(reader, depth, CYCLE), full, sliding=sliding)
        bases = reader.layer_numbers("layer_rope_theta", length=depth) or (full.rope.theta,) * depth
        rotations = {base: replace(full.rope, theta=base) if base else None for base in bases}
        return [replace(mixer, rope=rotations[base]) for mixer, base in zip(mixed, bases, strict=True)]

    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        mixers=mixers,
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
    weights=names.weights({"layers.{i}.attention.sinks": f"{names.LAYER}.self_attn.sinks"}),
    tiny={**granite.FAMILY.tiny, "tie_word_embeddings": False, "num_hidden_layers": 5, "sliding_window": 16},
    draws={
        **granite.FAMILY.draws,
        "head_dim": (16, 24),
        "tie_word_embeddings": (True, False),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, [*CYCLE[1:], *CYCLE[:2]]),
        "layer_rope_theta": (None, [0, 100.0, 100.0, 500.0, 0]),
    },
)
