"""GPT-NeoX, Pythia (arXiv 2204.06745, 2304.01373): parallel blocks with two norms, a quarter of each head rotated."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, sequential_layer
from nexus_universal.checkpoint.rules import Direct, WeightMap
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

LAYER = "gpt_neox.layers.{i}"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=2048, bos=0, eos=2, pad=None)
    embedding = common.embedding(reader, vocab=50432, width=6144, pad=None)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), bias=True, rounding="native")
    heads = reader.count("num_attention_heads", 64)
    reader.require(embedding.width % heads == 0, "num_attention_heads", heads, f"must divide {embedding.width}")
    reader.inert("num_key_value_heads", None, heads)
    reader.inert("head_dim", None, embedding.width // heads)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=heads,
        rope=rotary.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True),
        biases=common.ALL_BIASES if reader.take("attention_bias", True) else (),
        packing=(Packed(roles=("query", "key", "value"), groups=heads),),
    )
    feed_forward = common.feed_forward(reader, 24576, act="gelu", gated=False, biases=("up", "down"))
    if reader.take("use_parallel_residual", True):
        branches = (
            Branch(name="attention", part=attention, input_norm=norm),
            Branch(name="feed_forward", part=feed_forward, input_norm=norm),
        )
        write = Write(terms=(Term(source="feed_forward"), Term(source="attention"), Term(source="x")))
        layer = Program(steps=(Step(branches=branches, writes=(write,)),))
    else:
        layer = sequential_layer(("attention", attention), ("feed_forward", feed_forward), norm=norm)
    return common.decoder(reader, text, embedding, [layer] * reader.count("num_hidden_layers", 44), norm)


FAMILY = Family(
    model_type="gpt_neox",
    title="GPT-NeoX, Pythia",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "gpt_neox.embed_in",
            "layers.{i}.attention_norm": f"{LAYER}.input_layernorm",
            "layers.{i}.attention_input_norm": f"{LAYER}.input_layernorm",
            "layers.{i}.attention.query_key_value": f"{LAYER}.attention.query_key_value",
            "layers.{i}.attention.output": f"{LAYER}.attention.dense",
            "layers.{i}.feed_forward_norm": f"{LAYER}.post_attention_layernorm",
            "layers.{i}.feed_forward_input_norm": f"{LAYER}.post_attention_layernorm",
            "layers.{i}.feed_forward.up": f"{LAYER}.mlp.dense_h_to_4h",
            "layers.{i}.feed_forward.down": f"{LAYER}.mlp.dense_4h_to_h",
            "final_norm": "gpt_neox.final_layer_norm",
            "head": "lm_head",
            "head.weight": (Direct("embed_out.weight"), Direct("lm_head.weight")),
        },
        passed_over=names.PASSED_OVER | {r"\.attention\.(masked_)?bias$": "causal masks are made per call"},
    ),
    aliases={"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"},
    irrelevant={"classifier_dropout": TRAINING},
    partial_rotary_factor=0.25,
    tiny=draws.without(draws.TINY, "num_key_value_heads") | {"hidden_size": 64},
    draws={key: draws.DENSE[key] for key in ("rope_parameters", "tie_word_embeddings")}
    | {
        "num_attention_heads": (4, 2, 1),
        "rotary_pct": (0.25, 1.0, 0.5),
        "use_parallel_residual": (True, False),
        "attention_bias": (True, False),
        "hidden_act": ("gelu", "relu", "gelu_new"),
        "layer_norm_eps": (1e-5, 1e-3),
        "num_hidden_layers": (2, 3),
    },
)
