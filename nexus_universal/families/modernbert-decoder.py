"""ModernBERT's block made causal (Ettin, arXiv 2507.11412): two windowed layers to one full; BERT's head."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.ends import HeadTransform
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Program
from nexus_universal.families.shared import common, dense, draws, gpt, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = dense.Size(
    context=8192, vocab=50368, width=768, inner=1152, depth=22, heads=12, bos=50281, eos=50282, pad=50283, tied=True
)
KINDS = ("full_attention", "sliding_attention")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; the embedding is normed, so that the first attention needs no norm."""
    biased = reader.take("norm_bias", False)
    norm = Norm(kind="layer", eps=reader.take("norm_eps", 1e-5), bias=biased, rounding="native")
    width, heads = reader.count("hidden_size", SIZE.width), reader.count("num_attention_heads", SIZE.heads)
    reader.require(width % heads == 0, "num_attention_heads", heads, f"must divide {width}")
    reader.inert("num_key_value_heads", heads)
    reader.inert("head_dim", None, width // heads)
    ropes, context = reader.section("rope_parameters"), reader.count("max_position_embeddings", SIZE.context)
    full, local = (rotary.rope(ropes.section(kind), context=context, nested=True, product="float32") for kind in KINDS)
    span = reader.count("local_attention", 128)
    reader.require(span > 1, "local_attention", span, "must be at least 2: windows are half of it")
    reader.inert("sliding_window", span // 2)

    def mixers(attention: Attention, depth: int) -> Iterable[Attention]:
        every = reader.count("global_attn_every_n_layers", 3)
        derived = tuple(KINDS[index % every > 0] for index in range(depth))
        kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
        return common.windowed(kinds, attention, sliding=replace(attention, rope=local, window=max(span // 2, 1)))

    n = dense.decoder(
        reader,
        SIZE,
        norm,
        rope=full,
        mixers=mixers,
        table={"norm": norm},
        feed_forward={
            "key": "hidden_activation",
            "act": "gelu",
            "packing": (Packed(roles=("gate", "up")),),
            **dense.gated_biases(reader),
        },
        head={"bias": reader.take("decoder_bias", True), "transform": _transform(reader, norm, width)},
    )
    first, *others = n.layers[0].steps
    return replace(n, layers=(Program(steps=(replace(first, norm=None), *others)), *n.layers[1:]))


def _transform(reader: ConfigReader, norm: Norm, width: int) -> HeadTransform:
    act = common.activation(reader, "classifier_activation", "gelu")
    return HeadTransform(width=width, activation=act, norm=norm, bias=reader.take("classifier_bias", False))


TENSORS = {"attention_norm": "attn_norm", "attention.output": "attn.Wo", "feed_forward_norm": "mlp_norm"}
TENSORS |= {"feed_forward.gate_up": "mlp.Wi", "feed_forward.down": "mlp.Wo"}

FAMILY = Family(
    model_type="modernbert-decoder",
    title="ModernBERT decoder (Ettin)",
    read=read,
    weights=names.weights(
        {
            "embedding.tokens": "model.embeddings.tok_embeddings",
            "embedding.norm": "model.embeddings.norm",
            **names.attention(module="attn"),
            **gpt.named(names.LAYER, TENSORS),
            "final_norm": "model.final_norm",
            "head.transform.dense": "lm_head.dense",
            "head.transform.norm": "lm_head.norm",
            "head": "decoder",
        }
    ),
    irrelevant={
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), TRAINING),
        "initializer_cutoff_factor": "how weights start",
        "cls_token_id": "speaks of the tokenizer",
    },
    rope="by_layer_type",
    rope_theta={"full_attention": 160000.0, "sliding_attention": 10000.0},
    aliases={"global_rope_theta": "rope_theta", "local_rope_theta": "rope_local_base_freq"},
    tiny=draws.without(draws.TINY, "num_key_value_heads")
    | {"num_hidden_layers": 4, "local_attention": 32, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0},
    draws={
        **{"num_attention_heads": (4, 2, 1), "norm_eps": (1e-5, 1e-3)},
        **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), (False, True)),
        "decoder_bias": (True, False),
        **{"hidden_activation": ("gelu", "silu"), "classifier_activation": ("gelu", "relu")},
        **{"local_attention": (32, 14, 256), "global_attn_every_n_layers": (4, 2)},
        **{"global_rope_theta": (160000.0, 500.0), "local_rope_theta": (10000.0, 100.0)},
        "layer_types": (None, ["sliding_attention", "full_attention"] * 2),
        "tie_word_embeddings": (True, False),
    },
)
