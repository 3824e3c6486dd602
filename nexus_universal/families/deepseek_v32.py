"""DeepSeek-V3.2: DeepSeek-V3 whose attention sees only the keys that an indexer chose."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=128, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=163840, vocab=129280, width=7168, bos=0, eos=1)
    norm = common.rms_norm(reader, 1e-6)
    attention = deepseek.latent_attention(
        reader, context=text.context, query_rank=1536, defaults=SIZES, pairing="interleaved_to_half"
    )
    attention = replace(attention, indexer=deepseek.sparse_indexer(reader, attention, heads=64, pairing="half"))
    dense = common.feed_forward(reader, 18432)
    router = deepseek.sigmoid_router(reader, scale=2.5, groups=8, kept=4)
    experts = deepseek.experts(reader, dense, router, count=256, chosen=8, width=2048)
    feed_forwards = {"dense": dense, "sparse": experts}
    kinds = deepseek.layer_kinds(reader, layers=61, dense_layers=3)
    layers = common.sequential([attention] * len(kinds), [feed_forwards[kind] for kind in kinds], norm=norm)
    reader.names("layer_types", length=len(kinds), known=("indexed_attention",))
    deepseek.inert(reader)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="deepseek_v32",
    title="DeepSeek-V3.2",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.sparse_indexer(),
        names.experts(),
        names.shared_experts(),
        passed_over=names.MULTI_TOKEN_PREDICTION,
        wide_in_half=("*.indexer.weights.weight",),
    ),
    aliases=deepseek.ALIASES | {"num_experts": "n_routed_experts"},
    irrelevant=deepseek.IRRELEVANT
    | {
        "head_dim": "the reference puts qk_rope_head_dim in its place",
        "mlp_bias": "the reference's feed-forward has no biases",
    },
    tiny=draws.TINY
    | draws.TINY_LATENT
    | draws.TINY_ROUTED
    | draws.TINY_INDEXED
    | {"first_k_dense_replace": 1, "n_group": 4, "topk_group": 2},
    draws=draws.DENSE
    | draws.without(draws.LATENT, "q_lora_rank", "rope_interleave")
    | draws.ROUTED
    | draws.INDEXED
    | {
        "first_k_dense_replace": (1, 3, 0),
        "n_group": (4, 2),
        "topk_group": (2, 1),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse"]),
    },
)
