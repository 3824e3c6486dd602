"""Falcon (arXiv 2311.16867): parallel blocks with one or two norms, one key/value head or grouped ones, or ALiBi."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Alibi, Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = "transformer.h.{i}"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config. What `new_decoder_architecture` means for the other keys is the reference's own."""
    text = common.text(reader, context=2048, bos=11, eos=11, pad=None)
    embedding = common.embedding(reader, vocab=65024, width=4544, pad=None)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_epsilon", 1e-5), bias=True, rounding="native")
    grouped, parallel = _flag(reader, "new_decoder_architecture"), _flag(reader, "parallel_attn", True)
    reader.require(parallel or not grouped, "parallel_attn", parallel, "known with new_decoder_architecture: True")
    biased = _flag(reader, "bias")
    feed_forward = FeedForward(
        width=reader.count("ffn_hidden_size", optional=True) or 4 * embedding.width,
        activation=common.activation(reader, "activation", "gelu"),
        gated=False,
        biases=("up", "down") if biased else (),
        late_bias=biased,
    )
    attention = _attention(reader, text.context, embedding.width, grouped=grouped, biased=biased)
    norms = reader.count("num_ln_in_parallel_attn", optional=True) or (2 if grouped else 1)
    if not parallel:
        layer = sequential_layer(("attention", attention), ("feed_forward", feed_forward), norm=norm)
    else:
        reader.require(
            norms == 1 or (norms == 2 and grouped), "num_ln_in_parallel_attn", norms, "known: 1, or grouped 2"
        )
        each = norm if norms == 2 else None
        branches = (
            Branch(name="attention", part=attention, input_norm=each),
            Branch(name="feed_forward", part=feed_forward, input_norm=each),
        )
        write = Write(terms=(Term(source="feed_forward"), Term(source="attention"), Term(source="x")))
        layer = Program(steps=(Step(branches=branches, writes=(write,), norm=None if each else norm),))
    return common.decoder(reader, text, embedding, [layer] * reader.count("num_hidden_layers", 32), norm, tied=True)


def _flag(reader: ConfigReader, key: str, default: bool = False) -> bool:
    return bool(reader.take(key, default, kinds=(bool, type(None))))


def _attention(reader: ConfigReader, context: int | None, width: int, *, grouped: bool, biased: bool) -> Attention:
    heads = reader.count("num_attention_heads", 71)
    reader.require(width % heads == 0, "num_attention_heads", heads, f"must divide hidden_size = {width}")
    shared = reader.count("num_kv_heads", optional=True) or heads
    single = _flag(reader, "multi_query", True) and not grouped
    reader.require(grouped or single or shared == heads, "num_kv_heads", shared, f"known: {heads}")
    rope = rotary.rope(reader.section("rope_parameters"), context=context)
    alibi = Alibi(scaled=True, rounding="bfloat16") if _flag(reader, "alibi") else None
    return Attention(
        heads=heads,
        kv_heads=1 if single else shared,
        head_dim=width // heads,
        rope=None if alibi else rope,
        alibi=alibi,
        biases=common.ALL_BIASES if biased else (),
        late_bias=biased,
        packing=(Packed(roles=("query", "key", "value"), groups=1 if single else shared),),
        kernel="sdpa_masked",
        repeat_first=grouped,
    )


FAMILY = Family(
    model_type="falcon",
    title="Falcon",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.word_embeddings",
            "layers.{i}.attention_norm": f"{LAYER}.input_layernorm",
            "layers.{i}.attention_input_norm": f"{LAYER}.ln_attn",
            "layers.{i}.attention.query_key_value": f"{LAYER}.self_attention.query_key_value",
            "layers.{i}.attention.output": f"{LAYER}.self_attention.dense",
            "layers.{i}.feed_forward_norm": f"{LAYER}.post_attention_layernorm",
            "layers.{i}.feed_forward_input_norm": f"{LAYER}.ln_mlp",
            "layers.{i}.feed_forward.up": f"{LAYER}.mlp.dense_h_to_4h",
            "layers.{i}.feed_forward.down": f"{LAYER}.mlp.dense_4h_to_h",
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over=names.PASSED_OVER,
    ),
    aliases={"n_embed": "hidden_size"},
    irrelevant={"apply_residual_connection_post_layernorm": "the reference does not read it"},
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": 64,
    },
    draws={key: draws.DENSE[key] for key in ("rope_parameters", "tie_word_embeddings")}
    | {
        "num_attention_heads": (6, 12),
        "new_decoder_architecture": (False, True),
        "num_kv_heads": (None, 2, 1),
        "num_ln_in_parallel_attn": (None, 1),
        "multi_query": (True, False, False),
        "parallel_attn": (True, False, False, True, False),  # of other lengths, so that all combinations come up
        "alibi": (False, True, True, False, False, True, False),
        "bias": (False, True, True),
        "ffn_hidden_size": (None, 80),
        "layer_norm_epsilon": (1e-5, 1e-3),
        "activation": ("gelu", "relu"),
    },
)
