"""BLOOM (arXiv 2211.05100): ALiBi, a norm on the embedding, and a gelu whose derivative is Megatron's."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Alibi
from nexus_universal.architecture.program import Program, Term
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import gpt
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"
SIZE = Size(context=None, vocab=250880, width=64, inner=0, depth=2, heads=8, bos=1, eos=2, tied=True)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = gpt.norm(reader)
    reader.inert("slow_but_exact", False)
    n = gpt.decoder(
        reader,
        SIZE,
        norm,
        attention=lambda heads, head_dim: {
            "alibi": Alibi(),
            "kernel": "eager_fused",
            "packing": (Packed(roles=("query", "key", "value"), groups=heads),),
        },
        inner=None,
        act=None,
        known={"gelu_new": "gelu_derived"},
        table={"norm": norm},
    )
    if not reader.take("apply_residual_connection_post_layernorm", False):
        return n
    layer = _on_normed(n.layers[0])
    return replace(n, layers=(layer,) * len(n.layers))


def _on_normed(layer: Program) -> Program:
    """The same layer, its residual what the norms give."""
    steps = []
    for step in layer.steps:
        terms = tuple(Term(source="v") if term.source == "x" else term for term in step.writes[0].terms)
        steps.append(replace(step, writes=(replace(step.writes[0], terms=terms),)))
    return Program(steps=tuple(steps))


FAMILY = Family(
    model_type="bloom",
    title="BLOOM",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.word_embeddings",
            "embedding.norm": "transformer.word_embeddings_layernorm",
            **gpt.named(
                LAYER,
                {
                    "attention_norm": "input_layernorm",
                    "attention.query_key_value": "self_attention.query_key_value",
                    "attention.output": "self_attention.dense",
                    "feed_forward_norm": "post_attention_layernorm",
                    "feed_forward.up": "mlp.dense_h_to_4h",
                    "feed_forward.down": "mlp.dense_4h_to_h",
                },
            ),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        optional_prefix="transformer.",
    ),
    aliases={"n_embed": "hidden_size", "n_head": "num_attention_heads", "n_layer": "num_hidden_layers"},
    irrelevant={
        "pretraining_tp": "split products in training; read where slow_but_exact only",
        "seq_length": "the length it was trained on, which the reference does not read",
        "attention_softmax_in_fp32": "the reference does not read it",
        "masked_softmax_fusion": "the reference does not read it",
        "bias_dropout_fusion": "the reference does not read it",
        "skip_bias_add": "the reference does not read it",
        "skip_bias_add_qkv": "the reference does not read it",
        "offset_alibi": "the reference does not read it",
        "unk_token_id": "speaks of the tokenizer",
    },
    rope="none",
    tiny={"vocab_size": 97, "hidden_size": 48, "n_layer": 2, "n_head": 4},
    draws={
        "n_head": (4, 6, 1, 12, 8),
        "hidden_size": (48, 24, 96),
        "layer_norm_epsilon": (1e-5, 1e-3),
        "apply_residual_connection_post_layernorm": (False, True),
        "tie_word_embeddings": (True, False),
        "n_layer": (2, 3),
    },
)
