"""Emu3's text model (arXiv 2409.18869): a Llama of its own size."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family, Reference
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=9216,
    vocab=184622,
    width=4096,
    inner=14336,
    depth=32,
    heads=32,
    kv_heads=8,
    bos=151849,
    eos=151850,
    pad=151643,
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(reader, SIZE, common.rms_norm(reader, 1e-5), feed_forward=dense.gated_biases(reader))


FAMILY = Family(
    model_type="emu3_text_model",
    title="Emu3 (text)",
    read=read,
    weights=names.weights(),
    reference=Reference(model_type="emu3", config=lambda config: {"text_config": dict(config)}),
    rope_theta=1000000.0,
    tiny=draws.TINY | {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
    draws=draws.without(draws.DENSE, "pad_token_id")
    | {
        "head_dim": (12, 16),
        "num_key_value_heads": (2, 4, 1),
        "mlp_bias": (False, True),
        "pad_token_id": (0, 5),
        "num_hidden_layers": (2, 1, 3),
    },
)
