"""Qwen4-Exp: Qwen3.5's mixers and experts on gated streams, keys chosen by blocks, and tables of hashed n-grams."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Streams
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import ChannelGatedStreams, Program, residual_step
from nexus_universal.architecture.stream_gate import StreamGate
from nexus_universal.families import qwen3_5_moe_text as qwen3_5_moe
from nexus_universal.families import qwen3_5_text as qwen3_5
from nexus_universal.families.shared import common, compressed, delta, draws, indexed_streams, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.indexed_streams import INDEXED, LINEAR
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=248320, width=2048)
    norm, act, kinds = delta.norm(reader), common.activation(reader), indexed_streams.kinds(reader)
    gate = reader.take("output_gate_type", None, known=(None, "silu", "sigmoid")) or act
    reader.require(gate in ("silu", "sigmoid"), "output_gate_type", None, "must be given where hidden_act is no gate")
    linear = delta.delta_rule(reader, eps=norm.eps, act=act, packing=qwen3_5.PACKING)
    attention = delta.attention(reader, text, embedding.width, norm=norm, kv_heads=2)
    indexer = indexed_streams.indexer(reader, norm, needed=INDEXED in kinds)
    normalise = reader.take("norm_topk_prob", True)
    experts = delta.experts(reader, act, count=512, chosen=10, normalise=normalise)
    mixers = {
        LINEAR: {LINEAR: replace(linear, gate_activation=gate)},
        INDEXED: {"attention": replace(attention, indexer=indexer)},
    }
    streams, rank = reader.count("hc_count", 4), reader.count("hc_lowrank", 320)
    reader.require(streams > 1, "hc_count", streams, "must be at least 2")
    gates = StreamGate(rank=rank, norm=norm)
    connection = ChannelGatedStreams(streams=streams, gate=gates)
    made = {
        kind: compressed.connected_layer({**mixer, "feed_forward": experts}, connection, None)
        for kind, mixer in mixers.items()
    }
    layers = [made[kind] for kind in kinds]
    sizes = {"streams": streams, "vocab": embedding.vocab, "width": embedding.width}
    ngrams = indexed_streams.ngrams(reader, text, norm, **sizes)
    for index, layer in enumerate(indexed_streams.tabled(reader, kinds)):
        reader.require(bool(text.eos), "eos_token_id", None, "must be given where ple_layer_ids names layers")
        step = residual_step("ngrams", replace(ngrams, index=index), norm=None)
        layers[layer] = Program(steps=(step, *layers[layer].steps))
    reader.inert("attn_output_gate", True)
    reader.inert("mamba_ssm_dtype", "float32")
    n = common.decoder(reader, text, embedding, layers, None)
    return replace(n, streams=Streams(count=streams, fill="copy", merge="gate", gate=gates))


INDEXER = {
    "indexer_n_heads": 12,  # of few, all may score 0: which of equals is chosen depends on how many there are
    "indexer_kv_heads": 1,
    "indexer_head_dim": 32,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}

FAMILY = Family(
    model_type="qwen4_exp_text",
    title="Qwen4-Exp",
    read=read,
    weights=names.weights(names.experts(), qwen3_5.TENSORS, indexed_streams.TENSORS, passed_over=delta.PASSED_OVER),
    irrelevant=qwen3_5.IRRELEVANT
    | {
        "split_ngram_parts": "says in how many pieces a table lies in files",
        "number_of_conv_states": "follows from other keys",
    },
    completes=INDEXER | {"indexer_head_dim": 256},  # all 256 dimensions of a head turn
    tiny=dict(qwen3_5_moe.FAMILY.tiny)
    | INDEXER
    | {
        "output_gate_type": "silu",
        "eos_token_id": 5,
        "hc_lowrank": 12,
        "ple_layer_ids": [2],
        "ple_embed_dim": 24,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 11,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
    },
    draws=draws.without(dict(qwen3_5_moe.FAMILY.draws), "layer_types")
    | {
        "layer_types": (
            None,
            [INDEXED, LINEAR, LINEAR, INDEXED],
            [LINEAR, LINEAR, LINEAR, "full_attention"],
        ),
        "norm_topk_prob": (True, False),
        "output_gate_type": ("silu", "sigmoid"),
        "indexer_n_heads": (12, 16),
        "indexer_head_dim": (32, 40),
        "indexer_budget": (16, 8, 120),
        "indexer_compress_ratio": (4, 2),
        "hc_count": (4, 2),
        "hc_lowrank": (12, 20),
        "eos_token_id": (5, [7, 5]),
        "ple_layer_ids": ([2], [2, 3], None),
        "ple_embed_dim": (24, None),
        "ple_conv_kernel_size": (4, 2),
        "ngram_size": (3, 4, 2),
        "heads_per_ngram": (2, 4),
        "ngram_vocab_size_base": (11, 30),
        "make_ngram_vocab_size_divisible_by": (8, 1),
        "seed": (1234, 0),
    },
)
