"""Command R7B and Command A (Cohere 2): parallel blocks, windowed layers that rotate, full layers that do not."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

UNREAD = {
    "order_of_interleaved_layers": "local_attn_first",
    "position_embedding_type": "rope_gptj",
    "rotary_pct": 1.0,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_qk_norm": False,
}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=8192, vocab=256000, width=8192, bos=5, eos=255001, pad=0)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), rounding="after_scale")
    reader.inert("head_dim", embedding.width // reader.count("num_attention_heads", 64))
    rope = rotary.rope(
        reader.section("rope_parameters"), context=text.context, pairing="interleaved", product="float32"
    )
    sliding = common.attention(
        reader, text, embedding.width, heads=64, rope=rope, window=reader.count("sliding_window", 4096)
    )
    mixers = {"sliding_attention": sliding, "full_attention": replace(sliding, rope=None, window=None)}
    feed_forward = common.feed_forward(reader, 22528)
    tied = reader.take("tie_word_embeddings", True)
    for key, value in {**UNREAD, "use_embedding_sharing": tied}.items():
        reader.inert(key, value)

    def layer(attention: Attention) -> Program:
        branches = (Branch(name="attention", part=attention), Branch(name="feed_forward", part=feed_forward))
        write = Write(terms=(Term(source="x"), Term(source="attention"), Term(source="feed_forward")))
        return Program(steps=(Step(branches=branches, writes=(write,), norm=norm),))

    made = {kind: layer(attention) for kind, attention in mixers.items()}
    kinds = common.layer_types(reader, reader.count("num_hidden_layers", 40), full_every=4)
    scale = reader.take("logit_scale", 0.0625)
    return common.decoder(reader, text, embedding, (made[kind] for kind in kinds), norm, tied=True, scale=scale)


FAMILY = Family(
    model_type="cohere2",
    title="Command R7B, Command A",
    read=read,
    weights=names.weights({"layers.{i}.attention_norm": "model.layers.{i}.input_layernorm"}),
    irrelevant={
        "cache_implementation": "a default of generation",
        "layer_switch": "an old name of sliding_window_pattern that the reference does not read",
        "model_max_length": "a limit of the tokenizer",
        "use_parallel_embedding": "says how training split the table",
    },
    tiny=draws.TINY | {"num_hidden_layers": 4, "sliding_window": 16, "eos_token_id": 3},
    draws=draws.without(draws.DENSE, "rms_norm_eps")
    | {
        "layer_norm_eps": (1e-5, 1e-3),
        "logit_scale": (0.0625, 1.0),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention"] * 2, ["sliding_attention"] * 4),
        "pad_token_id": (0, 5),
    },
)
