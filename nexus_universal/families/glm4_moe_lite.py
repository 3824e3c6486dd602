"""GLM-4.7-Flash: latent attention as in DeepSeek-V3 (arXiv 2412.19437), a dense first layer, sigmoid-routed experts."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
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
    width = reader.count("moe_intermediate_size", 1536)
    experts = MixtureOfExperts(
        experts=reader.count("n_routed_experts", 64),
        per_token=reader.count("num_experts_per_tok", 4),
        expert=FeedForward(width=width, activation=dense.activation),
        router=deepseek.sigmoid_router(reader, scale=1.8),
        shared=FeedForward(width=width * reader.count("n_shared_experts", 1), activation=dense.activation),
    )
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
        names.gated("layers.{i}.feed_forward.shared", f"{names.LAYER}.mlp.shared_experts"),
        passed_over={r"^model\.layers\.47\.": "the multi-token prediction layer"},
    ),
    aliases={"num_local_experts": "n_routed_experts"},
    irrelevant={
        "pretraining_tp": "split products in training; transformers no longer reads it",
        "first_k_dense_replace": "transformers 5 reads mlp_layer_types instead",
        "num_nextn_predict_layers": "counts multi-token prediction layers, which are passed over",
        "topk_method": "transformers reads n_group and topk_group instead",
    },
    tiny=draws.TINY
    | {
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 24,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "kv_lora_rank": 20,
        "q_lora_rank": 28,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
    },
    draws=draws.DENSE
    | {
        "num_key_value_heads": (4,),
        "q_lora_rank": (28, None),
        "v_head_dim": (16, 20),
        "qk_rope_head_dim": (8, 16),
        "rope_interleave": (True, False),
        "mlp_layer_types": (None, ["sparse"] * 3, ["dense"] * 3),
        "num_experts_per_tok": (3, 1, 4),
        "n_shared_experts": (1, 2),
        "n_group": (1, 2),
        "norm_topk_prob": (True, False),
        "routed_scaling_factor": (1.8, 1.0),
    },
)
