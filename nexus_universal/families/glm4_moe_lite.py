"""GLM-4.7-Flash: latent attention as in DeepSeek-V3 (arXiv 2412.19437), a dense first layer, sigmoid-routed experts."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=20, latent=512, nope=192, rope=64, value=256)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=202752, vocab=154880, width=2048, bos=0, eos=1)
    norm = common.rms_norm(reader, 1e-5)
    attention = deepseek.latent_attention(reader, context=text.context, query_rank=768, defaults=SIZES)
    dense = common.feed_forward(reader, 10240)
    router = deepseek.sigmoid_router(reader, scale=1.8)
    experts = deepseek.experts(reader, dense, router, count=64, chosen=4, width=1536)
    depth = reader.count("num_hidden_layers", 47)
    listed = reader.names("mlp_layer_types", length=depth, known=("dense", "sparse"))
    kinds = listed or ("dense", *("sparse",) * (depth - 1))
    feed_forwards = [dense if kind == "dense" else experts for kind in kinds]
    layers = common.sequential([attention] * depth, feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="glm4_moe_lite",
    title="GLM-4.7-Flash",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.experts(),
        names.shared_experts(),
        passed_over=names.MULTI_TOKEN_PREDICTION,
    ),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT
    | {
        "first_k_dense_replace": "transformers 5 reads mlp_layer_types instead",
        "topk_method": "transformers reads n_group and topk_group instead",
    },
    tiny=draws.TINY | draws.TINY_LATENT | draws.TINY_ROUTED,
    draws=draws.DENSE | draws.LATENT | draws.ROUTED | {"mlp_layer_types": (None, ["sparse"] * 3, ["dense"] * 3)},
)
