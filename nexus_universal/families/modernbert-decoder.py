"""ModernBERT's block made causal (Ettin, arXiv 2507.11412): two windowed layers to one full; BERT's head."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import HeadTransform
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

UNREAD = "a key of the encoder that the reference does not read"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(
        kind="layer", eps=reader.take("norm_eps", 1e-5), bias=reader.take("norm_bias", False), rounding="native"
    )
    text = common.text(reader, context=8192, bos=50281, eos=50282, pad=50283)
    embedding = common.embedding(reader, vocab=50368, width=768, pad=text.pad, norm=norm)
    ropes = reader.section("rope_parameters")
    full, local = (
        rotary.rope(ropes.section(kind), context=text.context, nested=True, product="float32")
        for kind in ("full_attention", "sliding_attention")
    )
    heads = reader.count("num_attention_heads", 12)
    reader.require(embedding.width % heads == 0, "num_attention_heads", heads, f"must divide {embedding.width}")
    reader.inert("num_key_value_heads", heads)
    reader.inert("head_dim", None, embedding.width // heads)
    attention = common.attention(reader, text, embedding.width, heads=heads, rope=full)
    span = reader.count("local_attention", 128)
    reader.require(span > 1, "local_attention", span, "must be at least 2: windows are half of it")
    reader.inert("sliding_window", span // 2)
    sliding = replace(attention, rope=local, window=max(span // 2, 1))
    feed_forward = common.feed_forward(
        reader,
        1152,
        key="hidden_activation",
        act="gelu",
        biases=("gate", "up", "down") if reader.take("mlp_bias", False) else (),
        packing=(Packed(roles=("gate", "up")),),
    )
    depth, every = reader.count("num_hidden_layers", 22), reader.count("global_attn_every_n_layers", 3)
    derived = tuple("sliding_attention" if index % every else "full_attention" for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=("full_attention", "sliding_attention")) or derived
    layers = common.sequential(common.windowed(kinds, attention, sliding=sliding), feed_forward, norm=norm)
    first = replace(layers[0], steps=(replace(layers[0].steps[0], norm=None), *layers[0].steps[1:]))
    transform = HeadTransform(
        width=embedding.width,
        activation=common.activation(reader, "classifier_activation", "gelu"),
        norm=norm,
        bias=reader.take("classifier_bias", False),
    )
    return common.decoder(
        reader,
        text,
        embedding,
        (first, *layers[1:]),
        norm,
        tied=True,
        bias=reader.take("decoder_bias", True),
        transform=transform,
    )


FAMILY = Family(
    model_type="modernbert-decoder",
    title="ModernBERT decoder (Ettin)",
    read=read,
    weights=names.weights(
        {
            "embedding.tokens": "model.embeddings.tok_embeddings",
            "embedding.norm": "model.embeddings.norm",
            "layers.{i}.attention_norm": f"{names.LAYER}.attn_norm",
            **names.attention(module="attn"),
            "layers.{i}.attention.output": f"{names.LAYER}.attn.Wo",
            "layers.{i}.feed_forward_norm": f"{names.LAYER}.mlp_norm",
            "layers.{i}.feed_forward.gate_up": f"{names.LAYER}.mlp.Wi",
            "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.Wo",
            "final_norm": "model.final_norm",
            "head.transform.dense": "lm_head.dense",
            "head.transform.norm": "lm_head.norm",
            "head": "decoder",
        }
    ),
    irrelevant={
        **dict.fromkeys(("embedding_dropout", "mlp_dropout", "classifier_dropout"), TRAINING),
        **dict.fromkeys(("sparse_prediction", "sparse_pred_ignore_index", "classifier_pooling"), UNREAD),
        **dict.fromkeys(("deterministic_flash_attn", "repad_logits_with_grad", "position_embedding_type"), UNREAD),
        **dict.fromkeys(("layer_norm_eps", "reference_compile", "hidden_act"), UNREAD),
        "initializer_cutoff_factor": "how weights start",
        "cls_token_id": "speaks of the tokenizer",
    },
    rope="by_layer_type",
    rope_theta={"full_attention": 160000.0, "sliding_attention": 10000.0},
    aliases={"global_rope_theta": "rope_theta", "local_rope_theta": "rope_local_base_freq"},
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "local_attention": 32,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    },
    draws={
        "num_attention_heads": (4, 2, 1),
        "norm_eps": (1e-5, 1e-3),
        "norm_bias": (False, True),
        "attention_bias": (False, True),
        "mlp_bias": (False, True),
        "decoder_bias": (True, False),
        "classifier_bias": (False, True),
        "hidden_activation": ("gelu", "silu"),
        "classifier_activation": ("gelu", "relu"),
        "local_attention": (32, 14, 256),
        "global_attn_every_n_layers": (4, 2),
        "global_rope_theta": (160000.0, 500.0),
        "local_rope_theta": (10000.0, 100.0),
        "layer_types": (None, ["sliding_attention", "full_attention"] * 2),
        "tie_word_embeddings": (True, False),
    },
)
