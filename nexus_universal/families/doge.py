"""Doge (arXiv 2508.02124): keys that raise their own scores, of which only the best are seen; gains on the residual."""

from __future__ import annotations

from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

OF_EXPERTS = "speaks of experts, whose router mixes positions: a config that has them is refused"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=32768, width=1024)
    norm = common.rms_norm(reader, 1e-6)
    mask = DynamicMask(keep=reader.count("keep_window_size", 2048), bias=reader.take("attention_bias", False))
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=8,
        window=reader.count("sliding_window", None, optional=True),
        qk_norm=QueryKeyNorm(norm=norm),
        dynamic_mask=mask,
    )
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = common.feed_forward(reader, 2048, biases=biases)
    reader.inert("is_moe", False)
    layer = Program(
        steps=tuple(_step(n, p, norm) for n, p in (("attention", attention), ("feed_forward", feed_forward)))
    )
    return common.decoder(reader, text, embedding, [layer] * reader.count("num_hidden_layers", 32), norm)


def _step(name: str, part: Part, norm: Norm) -> Step:
    terms = (Term(source="x", gain="scale"), Term(source=name))
    branch = Branch(name=name, part=part)  # type: ignore[arg-type]
    return Step(norm=norm, branches=(branch,), writes=(Write(terms=terms),))


FAMILY = Family(
    model_type="doge",
    title="Doge",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention.dynamic_mask.rate": f"{names.LAYER}.self_attn.A",
            "layers.{i}.attention.dynamic_mask.step": f"{names.LAYER}.self_attn.dt_proj",
            "layers.{i}.attention_x_x_gain.weight": Direct(f"{names.LAYER}.input_residual"),
            "layers.{i}.feed_forward_x_x_gain.weight": Direct(f"{names.LAYER}.post_attention_residual"),
        }
    ),
    irrelevant=dict.fromkeys(("num_experts", "num_experts_per_tok", "norm_topk_prob"), OF_EXPERTS),
    tiny=draws.TINY | {"keep_window_size": 200},  # of equally good keys it is chance which are seen
    draws=draws.DENSE
    | {
        "keep_window_size": (200, 20, 5),
        "sliding_window": (None, 16, 40),
        "mlp_bias": (False, True),
        "num_key_value_heads": (2, 4, 1, None),
    },
)
