"""DeepSeek-V2 and its Lite and Coder (arXiv 2405.04434): the first latent attention, experts scored by a softmax."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.feed_forward import ExpertGroups, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import REQUIRED, ConfigReader

SIZES = deepseek.LatentSizes(heads=32, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=102400, width=4096, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-6)
    turned: dict[str, Any] = {"pairing": "interleaved", "table": "float32", "product": "complex64"}
    attention = deepseek.latent_attention(reader, context=text.context, query_rank=1536, defaults=SIZES, **turned)
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    dense = common.feed_forward(reader, 11008, biases=biases)
    experts = deepseek.experts(reader, dense, _router(reader), count=64, chosen=REQUIRED, width=1407, shared=2)
    feed_forwards = deepseek.dense_first(reader, dense, experts, layers=32, dense_layers=0)
    layers = common.sequential([attention] * len(feed_forwards), feed_forwards, norm=norm)
    reader.inert("scoring_func", "softmax")
    reader.inert("moe_layer_freq", 1)
    return common.decoder(reader, text, embedding, layers, norm)


def _router(reader: ConfigReader) -> Router:
    """A softmax over all experts, whose chosen weights stay as they are; groups count where the method says so."""
    grouped = reader.take("topk_method", "greedy", known=("greedy", "group_limited_greedy")) != "greedy"
    count, keep = (reader.count(key, None, optional=True) for key in ("n_group", "topk_group"))
    for key, value in {"n_group": count, "topk_group": keep}.items():
        reader.require(not grouped or value is not None, key, value, "must be a whole number for this topk_method")
    return Router(
        score="softmax",
        normalise=False,
        groups=ExpertGroups(count=count or 1, keep=keep or 1, by="best") if grouped else None,
        scale=reader.take("routed_scaling_factor", 1.0),
        logits="float32",
        order="unsorted",
    )


FAMILY = Family(
    model_type="deepseek_v2",
    title="DeepSeek-V2",
    read=read,
    weights=names.weights(names.latent_attention(), names.experts(), names.shared_experts()),
    aliases={"num_experts": "n_routed_experts"},
    irrelevant=deepseek.IRRELEVANT | {"norm_topk_prob": "the reference's router never reads it"},
    tiny=draws.TINY
    | draws.TINY_LATENT
    | draws.TINY_ROUTED
    | {"first_k_dense_replace": 1, "topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2},
    completes={"num_experts_per_tok": 6},
    draws=draws.DENSE
    | draws.without(draws.LATENT, "rope_interleave")
    | draws.without(draws.ROUTED, "norm_topk_prob")
    | {
        "mlp_bias": (False, True),
        "first_k_dense_replace": (1, 3, 0),
        "topk_method": ("group_limited_greedy", "greedy"),
        "n_group": (4, 2),
        "topk_group": (2, 1),
    },
)
