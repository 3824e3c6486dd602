"""RecurrentGemma (arXiv 2404.07839): Griffin's gated linear recurrences, every third layer windowed attention."""

from __future__ import annotations

import struct

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.architecture.recurrences import GatedLinearRecurrence
from nexus_universal.checkpoint.rules import Squeezed, WeightMap
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

KINDS = ("recurrent", "attention")
BLOCK = f"{names.LAYER}.temporal_block"
RECURRENCE = {"gate": "linear_y", "input": "linear_x", "output": "linear_out", "decay": "rg_lru.recurrent_param"}
RECURRENCE |= {
    f"{ours}_gate_{kind}": f"rg_lru.{theirs}_gate_{kind}"
    for ours, theirs in (("input", "input"), ("recurrence", "recurrent"))
    for kind in ("weight", "bias")
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width = reader.count("hidden_size", 2560)
    text = common.text(reader, context=None, bos=2, eos=1, pad=0)
    table = {"scale": _in_bfloat16(width**0.5), "scale_inputs": True}
    embedding = common.embedding(reader, vocab=256000, width=2560, pad=text.pad, **table)
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    rope = rotary.rope(
        reader.section("rope_parameters"), context=None, takes_fraction=True, kinds={"default": "default"}
    )
    biases = (*(common.INPUT_BIASES if reader.take("attention_bias", False) else ()), "output")
    window = reader.count("attention_window_size", 2048)
    reader.inert("head_dim", width // reader.count("num_attention_heads", 10))
    attention = common.attention(reader, text, width, heads=10, rope=rope, biases=biases, window=window)
    activation = common.activation(reader, "hidden_activation", "gelu_pytorch_tanh")
    recurrence = GatedLinearRecurrence(
        width=reader.count("lru_width", optional=True) or width,
        heads=attention.heads,
        convolution=reader.count("conv1d_width", 4),
        activation=activation,
    )
    feed_forward = FeedForward(
        width=reader.count("intermediate_size", 7680) // 2, activation=activation, biases=("gate", "up", "down")
    )
    feeding = _step("feed_forward", feed_forward, norm)
    layers = {
        "recurrent": Program(steps=(_step("recurrence", recurrence, norm), feeding)),
        "attention": Program(steps=(_step("attention", attention, norm), feeding)),
    }
    depth, cycle = reader.count("num_hidden_layers", 26), reader.take("block_types", None, kinds=(list, type(None)))
    cycle = [KINDS[0], *KINDS] if cycle is None else cycle
    known = cycle and all(kind in KINDS for kind in cycle)
    reader.require(bool(known), "block_types", cycle, f"must list some of {', '.join(KINDS)}")
    kinds = (cycle * depth)[:depth]
    softcap = reader.number("logits_soft_cap", 30.0)
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm, tied=True, softcap=softcap)


def _step(name: str, part: Part, norm: Norm) -> Step:
    """x = part(norm(x)) + x."""
    write = Write(terms=(Term(source=name), Term(source="x")))
    return Step(norm=norm, branches=(Branch(name=name, part=part),), writes=(write,))  # type: ignore[arg-type]


def _in_bfloat16(value: float) -> float:
    """The nearest number of bfloat16, in which the class keeps the scale of its embeddings whatever the model's is."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<I", (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000))[0])


FAMILY = Family(
    model_type="recurrent_gemma",
    title="RecurrentGemma",
    read=read,
    weights=WeightMap(
        tensors={
            **names.ends(),
            "final_norm": "model.final_norm",
            **names.attention(names.LAYER, "temporal_block"),
            **names.gated(theirs=f"{names.LAYER}.mlp_block"),
            "layers.{i}.attention_norm": f"{names.LAYER}.temporal_pre_norm",
            "layers.{i}.recurrence_norm": f"{names.LAYER}.temporal_pre_norm",
            "layers.{i}.feed_forward_norm": f"{names.LAYER}.channel_pre_norm",
            "layers.{i}.recurrence.convolution.weight": Squeezed(f"{BLOCK}.conv_1d.weight", axis=1),
            "layers.{i}.recurrence.convolution.bias": f"{BLOCK}.conv_1d.bias",
            **{f"layers.{{i}}.recurrence.{ours}": f"{BLOCK}.{theirs}" for ours, theirs in RECURRENCE.items()},
        },
        passed_over=names.PASSED_OVER,
    ),
    aliases={"sliding_window": "attention_window_size"},
    irrelevant=dict.fromkeys(("w_init_variance_scale", "final_w_init_variance_scale"), TRAINING),
    partial_rotary_factor=0.5,
    tiny=draws.without(draws.TINY, "max_position_embeddings")
    | {"num_hidden_layers": 3, "attention_window_size": 16, "block_types": [*KINDS], "pad_token_id": 0},
    draws={key: draws.DENSE[key] for key in ("rms_norm_eps", "attention_bias", "tie_word_embeddings")}
    | {
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
        "num_key_value_heads": (2, 1, None),
        "rope_parameters": (*draws.ROPE[:2], {"rope_theta": 500.0, "partial_rotary_factor": 1.0}),
        "attention_window_size": (16, 7, 128),
        "block_types": ([*KINDS], [*KINDS[::-1], KINDS[0]]),
        "lru_width": (None, 32),
        "conv1d_width": (4, 2),
        "logits_soft_cap": (30.0, 3.0),
        "intermediate_size": (80, 65),
    },
)
