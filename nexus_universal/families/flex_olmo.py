"""FlexOlmo (arXiv 2507.07024): OLMo 2 with experts in every layer, trained apart and put together."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=4096, vocab=100352, width=4096, inner=11008, depth=32, heads=32, bos=None, eos=100257, pad=100277
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale")
    return dense.decoder(
        reader,
        SIZE,
        norm,
        normed="after",
        rope={"table": "float32"},
        qk_norm=QueryKeyNorm(norm=norm, over="width"),
        feed_forwards=lambda expert, _: common.softmax_experts(reader, expert, count=7, chosen=5),
    )


FAMILY = Family(
    model_type="flex_olmo",
    title="FlexOlmo",
    read=read,
    weights=names.weights(names.post_norms(), names.experts()),
    aliases={"num_local_experts": "num_experts"},
    rope_theta=500000.0,
    tiny=draws.TINY | draws.TINY_WHOLE_EXPERTS | {"eos_token_id": 3, "pad_token_id": 1},
    draws=draws.DENSE
    | draws.WHOLE_EXPERTS
    | {"num_key_value_heads": (2, 4, 1, None), "head_dim": (16, 24), "pad_token_id": (1, None)},
)
