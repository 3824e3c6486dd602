"""OLMoE (arXiv 2409.02060): experts in every layer, norms over all queries and keys, and clips."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=4096, vocab=50304, width=2048, inner=2048, depth=16, heads=16, bos=None, eos=50279, pad=1)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    # The reference sizes the norms of queries and keys by the model's width, whatever the heads'.
    width, heads = reader.count("hidden_size", SIZE.width), reader.count("num_attention_heads", SIZE.heads)
    reader.inert("head_dim", width // heads)
    return dense.decoder(
        reader,
        SIZE,
        norm,
        qk_norm=QueryKeyNorm(norm=norm, over="width"),
        clip=reader.number("clip_qkv", None),
        feed_forwards=lambda expert, _: common.softmax_experts(reader, expert, count=64, chosen=8),
    )


FAMILY = Family(
    model_type="olmoe",
    title="OLMoE",
    read=read,
    weights=names.weights(names.experts()),
    aliases={"num_local_experts": "num_experts"},
    tiny=draws.TINY | draws.TINY_WHOLE_EXPERTS | {"eos_token_id": 3, "pad_token_id": 1},
    draws=draws.DENSE
    | draws.WHOLE_EXPERTS
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "num_attention_heads": (4, 8),
        "clip_qkv": (None, 0.5, 8.0),
        "pad_token_id": (1, None),
    },
)
