"""Falcon-H1 (arXiv 2507.22448): attention beside Mamba-2 in every layer, and muP's multipliers throughout."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, residual_step
from nexus_universal.families.shared import common, draws, names, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    scale = reader.number("embedding_multiplier", 1.0)
    ends = {"context": 8192, "vocab": 128000, "width": 4096, "bos": 1, "eos": 2, "pad": 0}
    text, embedding = common.ends(reader, **ends, scale=scale)
    norm = common.rms_norm(reader, 1e-5)
    key_scale = reader.number("key_multiplier", 1.0)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, key_scale=key_scale)
    normed, norm_first = reader.take("mamba_rms_norm", False), reader.take("mamba_norm_before_gate", True)
    mixer = state_space.mamba2(
        reader,
        embedding.width,
        norm=Norm(kind="rms", eps=norm.eps, rounding="after_scale") if normed else None,
        inner=reader.count("mamba_d_ssm", 1024, optional=True),
        norm_first=normed and norm_first,
        biases=("input",) * reader.take("mamba_proj_bias", False) + ("output",) * reader.take("projectors_bias", False),
        input_scales=reader.numbers("ssm_multipliers", [1.0] * 5, length=5),
    )
    gate_scale, output_scale = reader.numbers("mlp_multipliers", [1.0, 1.0], length=2)
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = common.feed_forward(reader, 14336, biases=biases, gate_scale=gate_scale, output_scale=output_scale)
    into = {name: reader.number(f"{name}_in_multiplier", 1.0) for name in ("ssm", "attention")}
    out = {name: reader.number(f"{name}_out_multiplier", 1.0) for name in ("ssm", "attention")}
    beside = Step(
        norm=norm,
        branches=(
            Branch(name="state_space", part=mixer, input_scale=into["ssm"]),
            Branch(name="attention", part=attention, input_scale=into["attention"]),
        ),
        writes=(
            Write(
                terms=(
                    Term(source="state_space", scale=out["ssm"]),
                    Term(source="attention", scale=out["attention"]),
                    Term(source="x"),
                )
            ),
        ),
    )
    layer = Program(steps=(beside, residual_step("feed_forward", feed_forward, norm=norm)))
    depth = reader.count("num_hidden_layers", 32)
    return common.decoder(
        reader, text, embedding, [layer] * depth, norm, scale=reader.number("lm_head_multiplier", 1.0)
    )


FAMILY = Family(
    model_type="falcon_h1",
    title="Falcon-H1",
    read=read,
    weights=names.weights(
        names.state_space(),
        names.gated(theirs=f"{names.LAYER}.feed_forward"),
        {"layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_ff_layernorm", "final_norm": "model.final_layernorm"},
    ),
    irrelevant=state_space.IRRELEVANT,
    tiny=draws.TINY
    | state_space.TINY
    | {
        "mamba_d_ssm": 72,
        "mamba_d_head": "auto",
        "embedding_multiplier": 5.656854249492381,
        "lm_head_multiplier": 0.0390625,
        "key_multiplier": 0.390625,
        "ssm_multipliers": [0.35, 0.25, 0.36, 0.5, 0.37],
        "mlp_multipliers": [0.8838834764831844, 0.5859375],
        "ssm_in_multiplier": 1.25,
        "ssm_out_multiplier": 0.2357,
        "attention_in_multiplier": 0.875,
        "attention_out_multiplier": 0.9375,
    },
    draws=draws.DENSE
    | state_space.DRAWS
    | {
        "mamba_d_ssm": (72, None),
        "mamba_d_head": ("auto",),
        "mamba_rms_norm": (False, True, True),
        "mamba_norm_before_gate": (True, False),
        "projectors_bias": (False, True),
        "mlp_bias": (False, True),
        "ssm_multipliers": ([0.35, 0.25, 0.36, 0.5, 0.37], [1.0, 0.7, 2.0, 0.3, 1.0]),
        "mlp_multipliers": ([0.8838834764831844, 0.5859375], [1.0, 0.3]),
        "attention_in_multiplier": (0.875, 1.0),
        "pad_token_id": (0, None),
    },
)
