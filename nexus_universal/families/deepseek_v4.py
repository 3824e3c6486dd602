"""DeepSeek-V4: hyper-connections, one vector as key and value, far positions compressed, first experts by token."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Streams
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import HyperConnection
from nexus_universal.families.shared import common, compressed, names
from nexus_universal.families.shared.compressed import HEAVY, SLIDING, SPARSE
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=1048576, vocab=129280, width=4096, bos=0, eos=1)
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale")
    depth = reader.count("num_hidden_layers", 43)
    attention = compressed.attention(reader, norm, context=text.context)
    experts = compressed.experts(reader)
    hashed = replace(experts, router=replace(experts.router, selection_bias=False, by_token=embedding.vocab))
    unread = {"norm_topk_prob": True, "n_shared_experts": 1, "num_key_value_heads": 1, "topk_method": "noaux_tc"}
    for key, ignored in unread.items():
        reader.inert(key, ignored)
    reader.inert("attention_bias", False)
    reader.inert("attn_implementation", None, "eager")
    reader.inert("_attn_implementation", None, "eager")
    streams = reader.count("hc_mult", 4)
    connection = HyperConnection(
        streams=streams,
        iterations=reader.count("hc_sinkhorn_iters", 20),
        eps=reader.take("hc_eps", 1e-6),
        norm_eps=norm.eps,
    )
    first = reader.take("num_hash_layers", 3)
    by_token = ["hash_moe" if index < first else "moe" for index in range(depth)]
    routings = reader.names("mlp_layer_types", length=depth, known=("hash_moe", "moe")) or by_token
    layers = (
        compressed.connected_layer(
            {"attention": attention[kind], "feed_forward": hashed if by == "hash_moe" else experts}, connection, norm
        )
        for kind, by in zip(compressed.kinds(reader, depth=depth), routings, strict=True)
    )
    n = common.decoder(reader, text, embedding, layers, norm)
    merged = Streams(count=streams, fill="copy", merge="weigh", eps=connection.eps, norm_eps=norm.eps)
    return replace(n, streams=merged)


WIDE = ("streams.*", "*_connection.*", "*.sinks", "*.compressor.bias", "*norm.weight")

FAMILY = Family(
    model_type="deepseek_v4",
    title="DeepSeek-V4",
    read=read,
    weights=replace(
        names.weights(compressed.TENSORS, passed_over={r"(^|\.)mtp\.": "multi-token prediction"}, wide=WIDE),
        optional_prefix="model.",
    ),
    aliases={"num_local_experts": "n_routed_experts", "intermediate_size": "moe_intermediate_size"},
    irrelevant={"num_nextn_predict_layers": "multi-token prediction", "expert_dtype": "the checkpoint's business"},
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "moe_intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "head_dim": 16,
        "q_lora_rank": 20,
        "max_position_embeddings": 64,
        "qk_rope_head_dim": 8,
        "layer_types": [HEAVY, SPARSE, SLIDING, SPARSE],
        "compress_rates": {SPARSE: 4, HEAVY: 16},
        "num_hash_layers": 1,
        "sliding_window": 16,
        "o_groups": 2,
        "o_lora_rank": 12,
        "index_n_heads": 16,  # of few, all may score 0: which of equals is chosen depends on how many there are
        "index_head_dim": 12,
        "index_topk": 5,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "hc_sinkhorn_iters": 4,
    },
    draws={
        "rms_norm_eps": (1e-6, 1e-3),
        "tie_word_embeddings": (False, True),
        "pad_token_id": (None, 0),
        "hidden_act": ("silu", "gelu_pytorch_tanh"),
        "rope_parameters": (
            {"rope_type": "default"},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        ),
        "rope_theta": (10000.0, 100.0),
        "compress_rope_theta": (160000.0, 50.0),
        "sliding_window": (16, 7, 128),
        "layer_types": ([HEAVY, SPARSE, SLIDING, SPARSE], None, [SPARSE, SLIDING, HEAVY, HEAVY]),
        "num_hash_layers": (1, 0, 4),
        "index_topk": (5, 2, 40),
        "scoring_func": ("sqrtsoftplus", "sigmoid"),
        "swiglu_limit": (10.0, 0.5),
        "mlp_bias": (False, True),
        "hc_mult": (4, 2),
        "hc_eps": (1e-6, 1e-3),
        "hc_sinkhorn_iters": (4, 1),
        "num_experts_per_tok": (3, 1),
    },
)
