"""SmolLM3 (Hugging Face): Llama of which every fourth layer rotates nothing, and may have a window instead."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=32768,
    vocab=128256,
    width=2048,
    inner=11008,
    depth=36,
    heads=16,
    kv_heads=4,
    bos=128000,
    eos=128001,
    pad=128004,
    tied=True,
)
KINDS = ("full_attention", "sliding_attention")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""

    def mixers(plain: Attention, depth: int) -> Iterable[Attention]:
        interval = reader.count("no_rope_layer_interval", 4)
        listed = reader.names("no_rope_layers", length=depth, known=(1, 0))
        rotated = listed or tuple(int((index + 1) % interval != 0) for index in range(depth))
        window = reader.count("sliding_window", None, optional=True)
        used = reader.take("use_sliding_window", False) and window is not None
        derived = tuple(KINDS[used and not turned] for turned in rotated)
        kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
        reader.require(bool(window) or KINDS[1] not in kinds, "sliding_window", window, "layer_types needs it")
        mixed = common.windowed(kinds, plain, sliding=replace(plain, window=window))
        return [mixer if turned else replace(mixer, rope=None) for mixer, turned in zip(mixed, rotated, strict=True)]

    return dense.decoder(
        reader, SIZE, common.rms_norm(reader, 1e-6), mixers=mixers, feed_forward=dense.gated_biases(reader)
    )


FAMILY = Family(
    model_type="smollm3",
    title="SmolLM3",
    read=read,
    weights=names.weights(),
    rope_theta=2000000.0,
    tiny=draws.TINY | {"num_hidden_layers": 4, "eos_token_id": 3, "pad_token_id": 4, "sliding_window": 16},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "mlp_bias": (False, True),
        "no_rope_layer_interval": (4, 2),
        "no_rope_layers": (None, [0, 1, 1, 0]),
        "use_sliding_window": (False, True),
        "sliding_window": (16, 7),
        "layer_types": (None, [*KINDS, *KINDS]),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (4, None),
    },
)
