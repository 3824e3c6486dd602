"""DeepSeek-V3, R1 and V3.1 (arXiv 2412.19437): latent attention, dense first layers, experts chosen group by group."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=128, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=4096, vocab=129280, width=7168, bos=0, eos=1)
    norm = common.rms_norm(reader, 1e-6)
    attention = deepseek.latent_attention(reader, context=text.context, query_rank=1536, defaults=SIZES)
    dense = common.feed_forward(reader, 18432)
    router = deepseek.sigmoid_router(reader, scale=2.5, groups=8, kept=4)
    experts = deepseek.experts(reader, dense, router, count=256, chosen=8, width=2048)
    feed_forwards = deepseek.dense_first(reader, dense, experts, layers=61, dense_layers=3)
    layers = common.sequential([attention] * len(feed_forwards), feed_forwards, norm=norm)
    for key, value in {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}.items():
        reader.inert(key, value)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="deepseek_v3",
    title="DeepSeek-V3, R1, V3.1",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.experts(),
        names.shared_experts(),
        passed_over=names.MULTI_TOKEN_PREDICTION,
    ),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT,
    tiny=draws.TINY
    | draws.TINY_LATENT
    | draws.TINY_ROUTED
    | {"first_k_dense_replace": 1, "n_group": 4, "topk_group": 2},
    draws=draws.DENSE
    | draws.LATENT
    | draws.ROUTED
    | {"first_k_dense_replace": (1, 3, 0), "n_group": (4, 2), "topk_group": (2, 1)},
)
