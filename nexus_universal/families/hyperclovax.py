"""HyperCLOVA X SEED Think (NAVER): Granite's multipliers, and norms behind the sublayers, too, unless switched off."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import granite
from nexus_universal.families.shared import common, dense, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=32000, width=4096, inner=11008, depth=32, heads=32)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""

    def mixers(plain: Attention, depth: int) -> Iterable[Attention]:
        scale = reader.number("attention_multiplier", None)
        return [replace(plain, scale=plain.head_dim**-0.5 if scale is None else scale)] * depth

    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-6),
        normed="both" if reader.take("use_post_norm", True) else "before",
        feed_forward=dense.gated_biases(reader),
        head={"scale": reader.number("logits_scaling", 1.0)},
        mixers=mixers,
        **dense.multipliers(reader),
    )


FAMILY = Family(
    model_type="hyperclovax",
    title="HyperCLOVA X SEED",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention_output_norm": f"{names.LAYER}.post_norm1",
            "layers.{i}.feed_forward_output_norm": f"{names.LAYER}.post_norm2",
        }
    ),
    tiny=granite.FAMILY.tiny,
    draws={**granite.FAMILY.draws, "attention_multiplier": (0.25, None), "use_post_norm": (True, False)},
)
