"""xLSTM (arXiv 2503.13427): matrix memories with exponential gates, and gated feed-forwards."""

from __future__ import annotations

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.architecture.recurrences import MatrixMemory
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

BLOCK = "backbone.blocks.{i}"
MEMORY = {"query": "q", "key": "k", "value": "v", "norm": "multihead_norm", "output": "out_proj"}
MEMORY |= {"gate": "ogate_preact", "input_gate": "igate_preact", "forget_gate": "fgate_preact"}
FEEDING = {"gate": "proj_up_gate", "up": "proj_up", "down": "proj_down"}
KERNELS = "names a kernel, and how it computes"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", 4096)
    std = (2 / (5 * width)) ** 0.5
    text = common.text(reader, context=None, bos=0, eos=2, pad=1, std=std)
    embedding = common.embedding(reader, vocab=50304, width=4096, pad=None)
    reader.agree("embedding_dim", reader.count("embedding_dim", optional=True) or width, width)
    depth = reader.count("num_hidden_layers", 32)
    reader.agree("num_blocks", reader.count("num_blocks", optional=True) or depth, depth)
    for key, plain in {"use_bias": False, "norm_reduction_force_float32": True, "weight_mode": "single"}.items():
        reader.inert(key, plain)
    for key in ("attn_implementation", "_attn_implementation"):
        reader.inert(key, None, "eager")
    reader.inert("inference_state_dtype", "float32")
    reader.inert("mode", "inference")
    eps, heads = reader.number("norm_eps", 1e-6), reader.count("num_heads", 8)
    norm = Norm(kind="rms", eps=eps)
    memory = MatrixMemory(
        heads=heads,
        key_dim=_head(reader, "qk_dim_factor", 0.5, width, heads),
        value_dim=_head(reader, "v_dim_factor", 1.0, width, heads),
        norm=Norm(kind="layer", eps=eps),
        gate_cap=reader.number("gate_soft_cap", 15.0),
        eps=reader.number("eps", 1e-6),
        chunk=reader.count("chunk_size", 64),
    )
    multiple = reader.count("ffn_round_up_to_multiple_of", 64)
    inner = int((width * reader.number("ffn_proj_factor", 2.667) + multiple - 1) // multiple * multiple)
    layer = sequential_layer(
        ("memory", memory), ("feed_forward", FeedForward(width=inner, activation="silu")), norm=norm
    )
    softcap = reader.number("output_logit_soft_cap", 30.0)
    reader.inert("tie_word_embeddings", False)  # the class never ties them
    head = Head(tied=False, softcap=softcap, dtype="float32_capped")
    return ArchitectureParameter(embedding=embedding, layers=(layer,) * depth, final_norm=norm, head=head, text=text)


def _head(reader: ConfigReader, key: str, default: float, width: int, heads: int) -> int:
    """The share of a head in so many widths."""
    factor = reader.number(key, default)
    whole = int(width * factor)
    reader.require(whole > 0 and whole % heads == 0, key, factor, f"times hidden_size must be a multiple of {heads}")
    return whole // heads


FAMILY = Family(
    model_type="xlstm",
    title="xLSTM",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "backbone.embeddings",
            "layers.{i}.memory_norm": f"{BLOCK}.norm_mlstm",
            **{f"layers.{{i}}.memory.{ours}": f"{BLOCK}.mlstm_layer.{theirs}" for ours, theirs in MEMORY.items()},
            "layers.{i}.feed_forward_norm": f"{BLOCK}.norm_ffn",
            **{f"layers.{{i}}.feed_forward.{ours}": f"{BLOCK}.ffn.{theirs}" for ours, theirs in FEEDING.items()},
            "final_norm": "backbone.out_norm",
            "head": "lm_head",
        },
    ),
    irrelevant={
        **dict.fromkeys(("chunkwise_kernel", "sequence_kernel", "step_kernel", "autocast_kernel_dtype"), KERNELS),
        "add_out_norm": "not asked: the last norm is always there",
        "return_last_states": "used in training only",
        "max_inference_chunksize": "in what pieces a long text is read",
    },
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_heads": 4,
        "qk_dim_factor": 2.0,
        "v_dim_factor": 4.0,
        "chunk_size": 16,
        "ffn_round_up_to_multiple_of": 8,
    },
    draws={
        "num_hidden_layers": (2, 3),
        "num_heads": (4, 2, 8),
        "qk_dim_factor": (2.0, 4.0),
        "v_dim_factor": (4.0, 2.0),
        "chunk_size": (16, 7, 64, 128),
        "norm_eps": (1e-6, 1e-2),
        "eps": (1e-6, 1e-1),
        "gate_soft_cap": (15.0, 2.0),
        "output_logit_soft_cap": (30.0, 3.0),
        "ffn_proj_factor": (2.667, 1.3),
        "ffn_round_up_to_multiple_of": (8, 24),
    },
)
