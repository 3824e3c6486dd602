"""Cohere Compass, text: Command A's block, each kind of layer with a rotation of its own or none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.families.shared import dense, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=8192, vocab=256000, width=8192, inner=22528, depth=40, heads=64, bos=5, eos=255001, pad=0, tied=True
)
KINDS = ("full_attention", "sliding_attention")
FIXED = {kind: kind for kind in ("default", "linear", "yarn", "llama3")}
"""Rotations that are the same in every call: the reference never updates its frequencies."""

OF_IMAGES = "how positions of images are spread; text has one"
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
STRETCHED = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), rounding="after_scale")
    reader.inert("head_dim", reader.count("hidden_size", SIZE.width) // reader.count("num_attention_heads", SIZE.heads))
    ropes, context = reader.section("rope_parameters"), reader.count("max_position_embeddings", SIZE.context)
    window = reader.count("sliding_window", 4096)

    def mixers(attention: Attention, depth: int) -> Iterable[Attention]:
        kinds = reader.names("layer_types", length=depth, known=KINDS) or ("full_attention",) * depth
        read = {kind: _rope(ropes, kind, context) for kind in KINDS if kind in kinds or kind in ropes.values}
        windows = {"full_attention": None, "sliding_attention": window}
        return (replace(attention, rope=read[kind], window=windows[kind]) for kind in kinds)

    return dense.decoder(
        reader,
        SIZE,
        norm,
        rotated=False,
        mixers=mixers,
        parallel=("x", "attention", "feed_forward"),
        head={"scale": reader.number("logit_scale", None)},
    )


def _rope(ropes: ConfigReader, kind: str, context: int) -> Rope | None:
    """The rotation of a kind of layer; null is none at all."""
    if ropes.take(kind, kinds=(dict, type(None))) is None:
        return None
    said = ropes.section(kind)
    said.irrelevant |= dict.fromkeys(("mrope_section", "mrope_interleaved"), OF_IMAGES)
    return rotary.rope(said, context=context, kinds=FIXED)


FAMILY = Family(
    model_type="cohere_compass_text",
    title="Cohere Compass (text)",
    read=read,
    weights=names.weights({"layers.{i}.attention_norm": "model.layers.{i}.input_layernorm"}),
    completes={"rope_parameters": {"full_attention": PLAIN}},
    irrelevant={"pooling": "how an embedding is made of the last layer"},
    rope="none",
    tiny=draws.TINY
    | {
        "sliding_window": 16,
        "eos_token_id": 3,
        "layer_types": list(KINDS),
        "rope_parameters": {"full_attention": None, "sliding_attention": PLAIN},
    },
    draws=draws.without(draws.DENSE, "rms_norm_eps", "rope_parameters")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "layer_norm_eps": (1e-5, 1e-3),
        "logit_scale": (None, 0.0625, 1.0),
        "sliding_window": (16, 7, 128),
        "layer_types": (list(KINDS), ["sliding_attention"] * 2, ["full_attention"] * 2),
        "rope_parameters": (
            {"full_attention": None, "sliding_attention": PLAIN},
            {"full_attention": STRETCHED, "sliding_attention": PLAIN},
            {"full_attention": PLAIN, "sliding_attention": LLAMA3},
            {"full_attention": LLAMA3, "sliding_attention": None},
        ),
        "pad_token_id": (0, 5),
    },
)
