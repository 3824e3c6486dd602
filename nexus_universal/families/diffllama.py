"""DiffLlama: Llama with differential attention (arXiv 2410.05258)."""

from __future__ import annotations

from nexus_universal.architecture.differential import Differential
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAMBDAS = {"first_query": "lambda_q1", "first_key": "lambda_k1", "second_query": "lambda_q2", "second_key": "lambda_k2"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=2048, bos=1, eos=2)
    norm = common.rms_norm(reader, 1e-5)
    bare = Norm(kind="rms", eps=norm.eps, scale="none", rounding="native")
    attention = common.attention(reader, text, embedding.width, heads=32, differential=Differential(norm=bare))
    reader.require(attention.kv_heads % 2 == 0, "num_key_value_heads", attention.kv_heads, "must be even")
    reader.inert("attention_dropout", 0.0, None)
    depth = reader.count("num_hidden_layers", 16)
    layers = common.sequential([attention] * depth, common.feed_forward(reader, 8192), norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="diffllama",
    title="DiffLlama",
    read=read,
    weights=names.weights(
        {
            f"layers.{{i}}.attention.differential.{ours}": f"{names.LAYER}.self_attn.{theirs}"
            for ours, theirs in LAMBDAS.items()
        }
    ),
    irrelevant={"lambda_std_dev": "says how weights start"},
    tiny=draws.TINY | {"num_hidden_layers": 3, "num_attention_heads": 8},
    draws=draws.DENSE | {"num_key_value_heads": (2, 4, 8), "head_dim": (None, 8)},
)
