"""No field of n is silently ignored: another value changes the output, or is refused by name.

Mutants come by reflection over the fields of each part that a tiny model holds. This is about what the *modules* do
with a field that is valid but perhaps not built yet; what a wrong value costs against the reference is for parity.
"""

from __future__ import annotations

import dataclasses
import types
import typing
import zlib
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.differential import Differential
from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.architecture.ends import (
    Bands,
    HeadTransform,
    LearnedPositions,
    Narrow,
    PerLayerEmbedding,
    Register,
    Streams,
)
from nexus_universal.architecture.errors import InvalidArchitecture, UnsupportedPart
from nexus_universal.architecture.feed_forward import ExpertGroups, FeedForward, Router
from nexus_universal.architecture.fusion import Fusion
from nexus_universal.architecture.indexers import BlockIndexer, PooledIndexer
from nexus_universal.architecture.mixers import (
    OutputGate,
    Packed,
    QueryKeyNorm,
    ReusedIndices,
    SparseIndexer,
)
from nexus_universal.architecture.part import ByLayer, Part
from nexus_universal.architecture.position import (
    Alibi,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Norm,
    ProportionalScaling,
    QueryTemperature,
    RelativeBias,
    Rope,
    SinusoidPositions,
    SteppedScaling,
    YarnScaling,
)
from nexus_universal.architecture.program import AltUp, ChannelGatedStreams, GatedStreams, HyperConnection, StreamSlice
from nexus_universal.architecture.residual_convolution import DynamicConvolution, ResidualConvolution
from nexus_universal.architecture.serial import type_hints
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK
from nexus_universal.architecture.stream_gate import StreamGate
from nexus_universal.architecture.validate import problems
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.layers.lightning_attention import UniversalLightningAttention
from nexus_universal.layers.ngrams import UniversalHashedNgrams
from tests.helpers import ids, raw

NORM = Norm(kind="rms", eps=1e-2)
SAMPLES: dict[type, Any] = {
    Norm: NORM,
    Rope: Rope(theta=50.0),
    Alibi: Alibi(),
    LinearScaling: LinearScaling(factor=3.0),
    DynamicScaling: DynamicScaling(factor=3.0, context=5),
    Llama3Scaling: Llama3Scaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=16),
    YarnScaling: YarnScaling(factor=4.0, original_context=8),
    LongRopeScaling: LongRopeScaling(factor=2.0, short_factors=(1.5,) * 4, long_factors=(2.5,) * 4, original_context=8),
    ProportionalScaling: ProportionalScaling(factor=2.0),
    QueryKeyNorm: QueryKeyNorm(norm=NORM),
    QueryTemperature: QueryTemperature(growth=0.5, span=4),
    RelativeBias: RelativeBias(width=6, extent=5),
    ResidualConvolution: ResidualConvolution(kernel=3),
    DynamicConvolution: DynamicConvolution(kernel=3),
    OutputGate: OutputGate(),
    ByLayer: ByLayer(rule="divide", value=0.3),
    Differential: Differential(norm=NORM),
    ExpertGroups: ExpertGroups(count=2, keep=1),
    FeedForward: FeedForward(width=12, activation="gelu"),
    LearnedPositions: LearnedPositions(count=64),
    SinusoidPositions: SinusoidPositions(count=64),
    SteppedScaling: SteppedScaling(context=5),
    Bands: Bands(cutoffs=(11, 40)),
    PerLayerEmbedding: PerLayerEmbedding(vocab=97, width=8, norm=NORM),
    Streams: Streams(count=2, fill="copy", merge="mean", eps=1e-6),
    BlockIndexer: BlockIndexer(heads=1, head_dim=8, keep=2, size=4, norm=NORM),
    SparseIndexer: SparseIndexer(heads=2, head_dim=8, keep=4, key_norm=NORM),
    ReusedIndices: ReusedIndices(reuse="indices"),
    HyperConnection: HyperConnection(streams=2, iterations=2, eps=1e-6, norm_eps=1e-6),
    GatedStreams: GatedStreams(streams=2, magnitude=2.0, eps=1e-6, norm_eps=1e-6),
    DynamicMask: DynamicMask(keep=5),
    BlockSparse: BlockSparse(block=4, local_blocks=1),
    Strided: Strided(stride=5, local=3),
    TopK: TopK(keys=5),
    PooledIndexer: PooledIndexer(heads=6, head_dim=8, keep=2, rate=3, norm=NORM),
    StreamGate: StreamGate(rank=6, norm=NORM),
    ChannelGatedStreams: ChannelGatedStreams(streams=2, gate=StreamGate(rank=6, norm=NORM)),
    AltUp: AltUp(streams=2, active=0, norm=NORM),
    StreamSlice: StreamSlice(read=0, write=(0,)),
    Packed: Packed(roles=("gate", "up")),
    Register: Register(name="m"),
    HeadTransform: HeadTransform(width=12, activation="relu", norm=NORM),
    Narrow: Narrow(width=12),
}
"""A part for every field that may hold one; factors fit a head of 8 turned dimensions."""

EQUAL: dict[str, str] = {
    "embedding.padding_row": "only the gradient of that row depends on it",
    "embedding.scale_inputs": "shows in embeddings that are given",
    "part.sum_order": "the order in which the same numbers are added",
    "part.chunk": "how the exact recurrence is cut up",
    "part.kernel": "three forms of the same attention",
    "part.repeat_first": "heads are repeated a little earlier or later",
    "router.order": "the order of the chosen",
    "indexer.emit": "later layers may reuse what this one chose",
    "deepseek_v32/rope.pairing=interleaved": "the same dot products, an indexer's included",
    "deepseek_v4/indexer.rope.pairing=interleaved_to_half": "the same dot products",
    "indexer.key_norm.eps": "no other keys are chosen for it here",
    "groups.zeroed": "scores are positive here, with their biases, too",
    "root": "the same root, taken otherwise: gradients show it",
    "part.contiguous": "the same numbers: gradients show it",
    "qk_norm.order": "the same: gradients show it",
    "part.keeps": "whether a cache keeps what no query sees any more",
    "alibi.origin": "a softmax sees differences only",
    "alibi.slopes": "two ways to the same numbers",
    "rope.over": "the order in which the same numbers lie: gradients show it",
    "part.late_gate": "the same numbers: gradients show it",
    "part.query_scale_on": "a factor before a matrix or behind it",
    "part.cut": "the same numbers: gradients show it",
    "part.views": "the same numbers: gradients show it",
    "part.shared_call": "the same numbers: gradients show it",
    "part.stacks": "one product or two of the same numbers",
    "router.total": "a sum of positive numbers, by two kernels",
    "detached": "what goes forward is the same",
    "per_layer.finds_tokens": "shows in embeddings that are given",
    "electra/part.biases=('query', 'value', 'output')": "q·(k + b) = q·k + q·b: one number for all keys of a query",
    "rope.frequencies=float64": "the same frequencies and angles, rounded later",
    "qwen4_exp_text/indexer.norm.scale=weight": "nearly one factor for all scores: no other blocks are chosen",
    "qwen4_exp_text/indexer.norm.eps": "the same",
    "ngrams.part.padded_to": "rows that no hash reaches",
    "packing.gate.groups": "a matrix of one role, however it is cut",
    "indexer.scale_on": "a positive factor of a relu, before it or after it",
    "router.sum_floor=0.7": "the chosen's scores sum to more",
    "minimax/layers.0.steps.0.branches.lightning.part.depth": "the first layer's decays are those of any depth",
    "cohere2/rope.pairing=interleaved_to_half": "the same dot products",
    "codegen/rope.pairing=interleaved_to_half": "the same dot products",
    "glm4_moe_lite/rope.pairing=interleaved": "the same dot products",
    "longcat_flash/rope.pairing=interleaved": "the same dot products",
    "gate.wide=activation": "torch's sigmoid of half precision computes in float32 and rounds, too: gradients show it",
    "streams.late_norm": "the same quotient, taken before a product or after it",
    "embedding.norm_rows": "shows in embeddings that are given",
    "relative.grown": "a positive factor of a product, before it or after it",
    "inkling_text/qk_norm.when=after_rope": "nothing turns",
    "inkling2_text/layers.0.steps.1.writes.0.terms.0.scale=0.7": "what is read from several registers is normed",
    "inkling2_text/layers.0.steps.1.writes.0.scale=0.7": "the same",
    "inkling2_text/layers.0.steps.1.writes.0.divisor=0.7": "the same",
    "inkling2_text/layers.1.steps.3.writes.0.scale=0.7": "the same",
    "inkling2_text/layers.1.steps.3.writes.0.divisor=0.7": "the same",
}
"""Fields whose other values are rightly the same function but for rounding; matched as the end of a path.

One with a "=" is matched with the value, too.
"""

HALF: dict[str, str] = {
    "rounding": "where half precision is rounded",
    "scale_rounding": "whether the scale is rounded to the model's dtype",
    "late_bias": "whether the product is rounded before its bias is added",
    "rope.table": "the tables' dtype",
    "rope.product": "the rotation's dtype",
    "rope.rounded": "whether what turned is rounded",
    "rope.frequencies=float32": "the same",
    "router.logits": "the router's dtype",
    "router.scores": "the dtype of a softmax over all",
    "gate.wide=product": "the dtype that the gate is multiplied in",
    "decay_form": "whether the decay is rounded",
    ".stored": "whether numbers stay in float32 when the model is cast",
    ".product": "the dtype of a gated product",
    "router.weights": "the weights' dtype",
    "head.dtype": "the logits' dtype",
    "embedding.dtype": "the residual's dtype",
    "writes.0.dtype": "a sum's dtype",
    "writes.1.dtype": "the same",
    "inkling2_text/gate.wide=none": "the dtype that the gate is taken and multiplied in",
}
"""Fields that mean nothing in float32, and must show in bfloat16."""

ALIKE = {
    ("gpt2", "rounding=after_scale"): "torch's kernel computes in float32 and rounds at the end, too",
    ("falcon", "rounding=after_scale"): "the same",
    ("electra", "rounding=after_scale"): "the same",
    ("rwkv", "rounding=after_scale"): "the same",
    ("cohere2", "rounding=native"): "the same, the other way round",
    ("deepseek_v32", "indexer.key_norm.rounding=after_scale"): "no other keys are chosen for it here",
    ("deepseek_v32", "indexer.rope.table=float32"): "the same",
    ("deepseek_v32", "indexer.rope.product=float32"): "the same",
    ("qwen4_exp_text", "indexer.norm.rounding=before_scale"): "the same",
    ("gpt_oss", "router.weights=rounded"): "torch's softmax of bfloat16 computes in float32 and rounds at the end, too",
    ("glm4_moe_lite", "router.weights=model"): "its router's logits are float32 in any model",
    ("mamba2", "part.norm.rounding=after_scale"): "what a scan of many positions gives it is float32 in any model",
    ("falcon_mamba", "inner_norm.rounding=after_scale"): "there is no weight to round before",
    ("falcon_mamba", "inner_norm.rounding=native"): "the same",
    ("granitemoehybrid", "router.weights=model"): "torch's softmax of bfloat16 differs in one entry of 100,000",
    ("gpt_oss", "norm.rounding=native"): "torch's kernel computes in float32 and rounds at the end, too",
    ("nemotron_h", "norm.rounding=native"): "the same",
    ("falcon_mamba", "final_norm.rounding=after_scale"): "its residual is float32 in any model",
    ("nemotron_h", "router.weights=model"): "its router's logits are float32 in any model",
    ("mamba2", "final_norm.rounding=after_scale"): "its residual is float32 in any model",
    ("gemma3_text", "feed_forward.part.product=float32"): "relu rounds nothing, and a product is rounded once anyway",
    ("gemma3n_text", "feed_forward.part.product=float32"): "the same",
    ("recurrent_gemma", "feed_forward.part.product=float32"): "the same",
    ("recurrent_gemma", "embedding.scale_rounding=model"): "its scale is rounded already, to bfloat16",
    ("nemotron_h", "embedding.dtype=float32_layers"): "the sum of one step is rounded once, by the step or after it",
    (
        "granitemoehybrid",
        "router.logits=widened",
    ): "its weights are rounded, and its softmax computes in float32 anyway",
    ("minimax", "embedding.dtype=float32"): "its residual is what was normed, in the model's dtype",
    ("minimax", "embedding.dtype=float32_layers"): "the same",
    ("gemma3n_text", "value_norm.rounding=before_scale"): "there is no weight to round before",
    ("diffllama", "differential.norm.rounding=before_scale"): "the same",
    ("diffllama", "differential.norm.rounding=after_scale"): "the same",
    ("hy_v4", "indexer.key_norm.rounding=after_scale"): "no other keys are chosen for it here",
    ("hy_v4", "indexer.key_norm.rounding=before_scale"): "the same",
    ("deepseek_v4", "indexer.key_norm.rounding=before_scale"): "the same",
    ("deepseek_v4", "indexer.key_norm.rounding=native"): "the same",
    ("deepseek_v4", "indexer.rope.table=float32"): "the same",
    ("deepseek_v4", "indexer.rope.product=model"): "the same",
    ("deepseek_v4", "norm.rounding=native"): "torch's kernel computes in float32 and rounds at the end, too",
    ("phimoe", "norm.rounding=after_scale"): "the same",
    ("codegen", "norm.rounding=after_scale"): "the same",
    ("longcat_flash", "router.scores=model"): "its router's logits are float32 in any model",
    ("longcat_flash", "router.weights=model"): "the same",
    ("phimoe", "router.weights=float32"): "the same",
    ("deepseek_v4", "router.weights=float32"): "the same",
    ("inkling2_text", "norm.rounding=native"): "torch's kernel computes in float32 and rounds at the end, too",
    ("inkling2_text", "apart.rounding=native"): "the same",
    ("inkling2_text", "apart.rounding=before_scale"): "what is read from several registers is float32 in any model",
    ("inkling2_text", "steps.2.norm.rounding=before_scale"): "the same",
    ("inkling2_text", "final_norm.rounding=before_scale"): "the same",
    ("inkling2_text", "steps.0.writes.0.dtype=model"): "one term, in the model's dtype",
    ("inkling2_text", "layers.0.steps.1.writes.0.dtype=model"): "the same",
    ("inkling2_text", "layers.0.steps.1.writes.0.dtype=float32"): "the same, and widened when it is read",
    ("inkling2_text", "layers.0.steps.1.writes.1.dtype=terms"): "a sum of two numbers is that of float32, rounded",
    ("inkling2_text", "layers.0.steps.1.writes.1.dtype=model"): "the same",
    ("inkling2_text", "steps.2.writes.0.dtype=model"): "one term, in the model's dtype",
    ("inkling2_text", "steps.4.writes.0.dtype=float32"): "what is read from several registers is float32 in any model",
    ("inkling2_text", "value_norm.rounding=before_scale"): "there is no weight to round before",
    ("inkling2_text", "router.weights=model"): "its router's logits are float32 in any model",
    ("jetmoe", "router.weights=rounded"): "torch's softmax of bfloat16 computes in float32 and rounds at the end, too",
}
"""Values of these that happen to round alike here."""

TOGETHER = {
    "final_norm.rounding": "Embedding.dtype",
    "qk_norm.over": "Attention.packing",
    "qk_norm.own": "Norm.kind",
    "part.norm_first": "Norm.rounding",
    "read.join": "of vectors of",
    "read.queries": "of vectors of",
}
"""Fields that are refused only beside another, which the message names instead."""

BASES: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 1, "hidden_size": 32, "head_dim": 8},
    "gpt2": {
        "n_layer": 1,
        "n_embd": 32,
        "activation_function": "relu",
    },
    "gemma3_text": {
        "num_hidden_layers": 1,
        "head_dim": 8,
        "sliding_window": 6,
        "final_logit_softcapping": 5.0,
        "hidden_activation": "relu",
    },
    "cohere2": {
        "num_hidden_layers": 1,
        "layer_types": ["sliding_attention"],
        "sliding_window": 6,
        "hidden_size": 32,
    },
    "deepseek_v32": {"num_hidden_layers": 1, "first_k_dense_replace": 1, "index_topk": 5},
    "glm4_moe_lite": {
        "num_hidden_layers": 1,
        "mlp_layer_types": ["sparse"],
        "n_group": 2,
        "routed_scaling_factor": 1.5,
    },
    "qwen3_next": {
        "num_hidden_layers": 2,
        "layer_types": ["linear_attention", "full_attention"],
        "mlp_only_layers": [1],
        "head_dim": 8,
        "partial_rotary_factor": 0.5,
    },
    "gpt_oss": {
        "num_hidden_layers": 1,
        "hidden_size": 32,
        "head_dim": 8,
        "sliding_window": 6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    },
    "falcon": {
        "num_hidden_layers": 1,
        "num_attention_heads": 24,
        "alibi": True,
        "bias": True,
        "activation": "relu",
    },
    "electra": {"num_hidden_layers": 1, "hidden_size": 32, "hidden_act": "relu"} | {"tie_word_embeddings": False},
    "mamba2": {"num_hidden_layers": 1, "chunk_size": 8},
    "falcon_mamba": {"num_hidden_layers": 1},
    "lfm2": {"num_hidden_layers": 1, "layer_types": ["conv"]},
    "falcon_h1": {"num_hidden_layers": 1, "mamba_rms_norm": True, "mamba_chunk_size": 8},
    "nemotron_h": {"layers_block_type": ["moe"], "moe_latent_size": 32, "n_group": 2} | {"routed_scaling_factor": 1.5},
    "granitemoehybrid": {"num_hidden_layers": 1, "layer_types": ["full_attention"], "hidden_size": 32, "head_dim": 8}
    | {"mamba_n_heads": 4, "mamba_d_head": "auto", "embedding_multiplier": 12.3},
    "minimax": {"num_hidden_layers": 2, "layer_types": ["linear_attention"] * 2, "block_size": 8}
    | {
        "linear_attn_alpha_factor": 1.3,
        "linear_attn_beta_factor": 0.7,
        "mlp_alpha_factor": 1.1,
        "mlp_beta_factor": 0.9,
    },
    "kimi_linear": {"num_hidden_layers": 1, "layer_types": ["linear_attention"], "mlp_layer_types": ["dense"]},
    "zamba": {"num_hidden_layers": 2, "layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_hidden_layers": 1, "layer_types": ["hybrid_sliding"], "sliding_window": 6},
    "inkling_text": {"num_hidden_layers": 1, "layer_types": ["hybrid"], "mlp_layer_types": ["sparse"]}
    | {"log_scaling_n_floor": 3, "rel_extent": 6, "unpadded_vocab_size": 90},
    "inkling2_text": {"num_hidden_layers": 2, "layer_types": ["hybrid_sliding", "hybrid"], "log_scaling_n_floor": 3}
    | {
        "sliding_window_size": 6,
        "n_layers_per_attn_res_block": 2,
        "rel_extent": 6,
        "qk_l2_clip_threshold": 5.0,
        "rel_l2_clip_threshold": 1.0,
    },
    "jetmoe": {"num_hidden_layers": 1},
    "deepseek_v4": {"num_hidden_layers": 1, "layer_types": ["compressed_sparse_attention"], "num_hash_layers": 0}
    | {
        "sliding_window": 6,
        "index_topk": 3,
        "compress_rates": {"compressed_sparse_attention": 2},
        "hc_sinkhorn_iters": 1,
        "swiglu_limit": 0.5,
    },
    "recurrent_gemma": {"num_hidden_layers": 1, "block_types": ["recurrent"], "hidden_activation": "relu"},
    "gemma3n_text": {"num_hidden_layers": 1, "layer_types": ["sliding_attention"], "sliding_window": 6}
    | {"hidden_activation": "relu"},
    "hy_v4": {"num_hidden_layers": 1, "mlp_layer_types": ["dense"], "index_topk": 5},
    "longcat_flash": {"num_layers": 1, "zero_expert_num": 3},
    "qwen4_exp_text": {"num_hidden_layers": 2, "layer_types": ["linear_attention", "indexed_attention"]}
    | {"ple_layer_ids": [1], "indexer_budget": 8, "head_dim": 8},
    "doge": {"num_hidden_layers": 1, "keep_window_size": 5},
    "diffllama": {"num_hidden_layers": 1},
    "phimoe": {"num_hidden_layers": 1},
    "codegen": {"n_layer": 1, "activation_function": "relu"},
    "rwkv": {"num_hidden_layers": 2, "rescale_every": 1},
    "xlstm": {"num_hidden_layers": 1, "chunk_size": 8},
}
"""One layer of each kind."""

FELT: dict[str, dict[str, Any]] = {
    "electra": {"embedding.positions": LearnedPositions(count=64, offset=2, uncounted=int(ids(2, 20)[0, 3]))},
    "gemma3n_text": {"streams.eps": 50.0},
    "diffllama": {"layers.*.attention.differential.norm.eps": 5.0},
}
"""What no config says."""


def tiny(model_type: str) -> ArchitectureParameter:
    """The n of a base, with epsilons that can be felt."""
    n = with_wide_epsilons(ArchitectureParameter.from_huggingface(raw(model_type, **BASES[model_type])))
    for path, value in FELT.get(model_type, {}).items():
        n = n.replace(path, value)
    return n


def with_wide_epsilons(value: Any) -> Any:
    """A part whose epsilons, and those of parts inside it, are 0.1 where they are more than 0 and less than that."""
    if isinstance(value, tuple):
        return tuple(with_wide_epsilons(item) for item in value)
    if not isinstance(value, Part):
        return value
    changes = {field.name: with_wide_epsilons(getattr(value, field.name)) for field in dataclasses.fields(value)}
    epsilons = {name: found for name, found in changes.items() if name.endswith(("eps", "epsilon"))}
    small = [name for name, found in epsilons.items() if isinstance(found, float) and 0 < found < 0.1]
    return dataclasses.replace(value, **{**changes, **dict.fromkeys(small, 0.1)})


def alternatives(value: Any, hint: Any) -> Iterator[Any]:
    """Other values that a field may hold by its declared type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for option in options:
            if option is types.NoneType:
                if value is not None:
                    yield None
            elif isinstance(option, type) and issubclass(option, Part):
                if not isinstance(value, option) and option in SAMPLES:
                    yield SAMPLES[option]
            elif value is None or _is(value, option):
                yield from alternatives(value, option)
    elif origin is Literal:
        yield from (option for option in options if option != value)
    elif origin is tuple and options[1:] == (Ellipsis,):
        if typing.get_origin(options[0]) is Literal:
            for option in typing.get_args(options[0]):
                yield tuple(v for v in value if v != option) if option in value else (*value, option)
            yield ()
        elif options[0] is Packed:
            yield () if value else (SAMPLES[Packed],)
        elif options[0] is Register:
            yield (SAMPLES[Register],)
        elif options[0] is float and value:
            yield tuple(1.3 * number for number in value)
    elif hint is bool:
        yield not value
    elif hint is int:
        yield from (3,) if value is None else (value + 1, 2 * value)
    elif hint is float:
        yield 0.7 if not value else 1.5 * value


def _is(value: Any, option: Any) -> bool:
    origin = typing.get_origin(option)
    return isinstance(value, tuple) if origin is tuple else origin is None and isinstance(value, option)


def mutants(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, copy of root with one field changed), parts inside parts included; of equal ones only the first."""
    for field in dataclasses.fields(root):
        value, hint = getattr(root, field.name), type_hints(type(root))[field.name]
        here = f"{path}.{field.name}" if path else field.name
        for other in alternatives(value, hint):
            if other != value or type(other) is not type(value):
                yield f"{here}={_text(other)}", dataclasses.replace(root, **{field.name: other})
        inner = value if isinstance(value, tuple) else (value,)
        for index, part in enumerate(inner):
            if not isinstance(part, Part):
                continue
            called = getattr(part, "name", None)
            below = f"{here}.{called or index}" if isinstance(value, tuple) else here
            for found, changed in mutants(part, below):
                new = (*inner[:index], changed, *inner[index + 1 :]) if isinstance(value, tuple) else changed
                yield found, dataclasses.replace(root, **{field.name: new})


def _text(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Part) else str(value)


def built(n: ArchitectureParameter) -> UniversalTransformer:
    """A model whose weights depend on their name and shape alone; fixed decays and hashes are those that n says."""
    with torch.device("meta"):
        model = UniversalTransformer(n)
    for name, slot in slots(model).items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{name}{tuple(slot.shape)}".encode()))
        noise = torch.randn(slot.shape, generator=generator)
        put(model, name, noise * 1.5 / slot.shape[-1] ** 0.5 if slot.dim() > 1 else 1 + 0.3 * noise)
    for module in model.modules():
        if isinstance(module, UniversalLightningAttention):
            module.start(n.text, depth=n.num_layers)
        elif isinstance(module, UniversalHashedNgrams):
            module.start_hashes()
    return model.eval()


def run(model: UniversalTransformer) -> Tensor:
    return model(ids(2, 20)).logits


def unused(model: UniversalTransformer, logits: Tensor, names: set[str]) -> list[str]:
    """Those parameters that the output does not depend on: without a gradient, nor a choice that they make."""
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    (logits * weights).sum().backward()
    found = dict(model.named_parameters())
    grads = {name: found[name].grad for name in names if name in found}
    idle = [name for name, grad in grads.items() if grad is None or not bool(grad.any())]
    return [name for name in idle if torch.equal(logits, redrawn(model, name))]


def redrawn(model: UniversalTransformer, name: str) -> Tensor:
    """The output after one tensor got other, wide values."""
    shape = slots(model)[name].shape
    put(model, name, 3 * torch.randn(shape, generator=torch.Generator().manual_seed(7)))
    with torch.no_grad():
        return run(model)


@pytest.mark.parametrize("model_type", BASES)
def test_a_changed_field_changes_the_output_or_is_refused(model_type: str) -> None:
    n = tiny(model_type)
    base = built(n)
    with torch.no_grad():
        before = run(base)
    known = {name: tuple(slot.shape) for name, slot in slots(base).items()}
    outcomes: dict[str, list[str]] = {"changed": [], "refused": [], "invalid": [], "same": [], "unused": []}
    for path, mutant in mutants(n):
        if path.split(".")[0] in ("origin", "text"):
            continue
        field = path.split("=")[0]
        try:
            mutant.validate()
        except InvalidArchitecture:
            outcomes["invalid"].append(path)
            continue
        try:
            model = built(mutant)
            logits = run(model)
        except InvalidArchitecture:
            outcomes["invalid"].append(path)
            continue
        except UnsupportedPart as error:
            last = field.split(".")[-1]
            named = {last, type_name(n, field), path.split("=")[1], TOGETHER.get(".".join(field.split(".")[-2:]))}
            assert any(word and word in str(error) for word in named), f"{path}: {error}"
            outcomes["refused"].append(path)
            continue
        new = {name for name, slot in slots(model).items() if known.get(name) != tuple(slot.shape)}
        assert bool(torch.isfinite(logits).all()), path
        if new:
            idle = unused(model, logits, new)
            outcomes["unused" if idle else "changed"].append(f"{path} {idle}" if idle else path)
        elif logits.shape == before.shape and float((logits.detach() - before).abs().max() / before.abs().max()) < 2e-5:
            outcomes["same"].append(path)
        else:
            outcomes["changed"].append(path)
    same = [path for path in outcomes["same"] if not rightly_equal(model_type, path, EQUAL | HALF)]
    print(model_type, {name: len(paths) for name, paths in outcomes.items()})
    assert not same, "these values change nothing and nobody says so"
    assert not outcomes["unused"], "these parameters are created and never used"
    assert len(outcomes["changed"]) > 25


@pytest.mark.parametrize("model_type", BASES)
def test_a_field_of_rounding_shows_in_bfloat16(model_type: str) -> None:
    n = tiny(model_type)
    with torch.no_grad():
        before = run(built(n).to(torch.bfloat16))
        tried: list[str] = []
        wrong: list[str] = []
        for path, mutant in mutants(n):
            if rightly_equal(model_type, path, HALF) and not list(problems(mutant)):
                try:
                    after = run(built(mutant).to(torch.bfloat16))
                except UnsupportedPart:
                    continue
                alike = after.dtype == before.dtype and torch.equal(after, before)
                expected = any(model_type == only and path.endswith(ending) for only, ending in ALIKE)
                tried.append(path)
                wrong += [path] * (alike != expected)
    assert not wrong, "these show in bfloat16 against what ALIKE says, or do not"
    assert len(tried) >= 4


def rightly_equal(model_type: str, path: str, known: dict[str, str]) -> bool:
    """Whether a table says so, for all models or (with the model type in front) for this one."""
    field = path.split("=")[0]
    split = (entry.rpartition("/") for entry in known)
    return any(
        (path if "=" in ending else field).endswith(ending) and prefix in ("", model_type)
        for prefix, _, ending in split
    )


def type_name(n: Any, path: str) -> str:
    """The class of the part that holds the field at `path`."""
    holder = n
    for step in path.split(".")[:-1]:
        if isinstance(holder, tuple):
            holder = next((p for i, p in enumerate(holder) if str(i) == step or getattr(p, "name", None) == step), None)
        else:
            holder = getattr(holder, step)
    return type(holder).__name__


def test_every_part_has_a_sample() -> None:
    """A field that may hold a part is tried with one; fusions and bridges have tests of their own."""
    wanted: set[type] = set()
    for model_type in BASES:
        for part in walk(tiny(model_type)):
            for hint in type_hints(type(part)).values():
                options = typing.get_args(hint) or (hint,)
                if types.NoneType in options or len(options) > 2:
                    wanted |= {o for o in options if isinstance(o, type) and issubclass(o, Part)}
    mixers = {part for part in wanted if part.role != "other" and part is not FeedForward}
    assert wanted - mixers - set(SAMPLES) <= {Router, Fusion, Bridge, *programs()}


def programs() -> set[type]:
    from nexus_universal.architecture import program
    from nexus_universal.architecture.feed_forward import PerLayerInput
    from nexus_universal.architecture.mixers import LowRank
    from nexus_universal.architecture.ngrams import HashedNgrams

    return {program.Program, program.Linear, LowRank, PerLayerInput, HashedNgrams}


def walk(part: Part) -> Iterator[Part]:
    yield part
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, Part):
                yield from walk(inner)
