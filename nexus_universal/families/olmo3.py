"""OLMo 3 (arXiv 2512.13961): OLMo 2 with a window in three layers of four; full layers may stretch their rotation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=50304, width=4096, inner=11008, depth=32, heads=32, bos=None, eos=50279, pad=1)
CYCLE = (*("sliding_attention",) * 3, "full_attention")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5, rounding="after_scale")
    ropes = reader.section("rope_parameters")
    context = reader.count("max_position_embeddings", SIZE.context)
    full, local = (
        rotary.rope(ropes.section(kind), context=context, nested=True, table="float32")
        for kind in ("full_attention", "sliding_attention")
    )

    def mixers(attention: Attention, depth: int) -> Iterable[Attention]:
        sliding = replace(attention, rope=local, window=reader.count("sliding_window", 4096))
        return common.windowed(common.cycled_types(reader, depth, CYCLE), attention, sliding=sliding)

    return dense.decoder(
        reader,
        SIZE,
        norm,
        normed="after",
        rope=full,
        mixers=mixers,
        qk_norm=QueryKeyNorm(norm=norm, over="width"),
    )


FAMILY = Family(
    model_type="olmo3",
    title="OLMo 3",
    read=read,
    weights=names.weights(names.post_norms()),
    rope="by_layer_type",
    rope_theta={"full_attention": 500000.0, "sliding_attention": 500000.0},
    tiny=draws.TINY | {"num_hidden_layers": 4, "sliding_window": 16, "eos_token_id": 3, "pad_token_id": 1},
    draws=draws.without(draws.DENSE, "rope_parameters")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "rope_scaling": draws.ROPE_SCALING,
        "rope_theta": (500000.0, 100.0),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, [*CYCLE[2:], *CYCLE[2:]]),
        "pad_token_id": (1, None),
    },
)
