"""RWKV-4 (arXiv 2305.13048): decayed averages and feed-forwards, both of positions mixed with the one before."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.architecture.recurrences import DecayedAverage, ShiftedFeedForward
from nexus_universal.checkpoint.rules import Squeezed, WeightMap
from nexus_universal.families.shared import common
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

BLOCK = "rwkv.blocks.{i}"
TIME = {"key": "key", "value": "value", "gate": "receptance", "output": "output"}
CHANNEL = {"up": "key", "gate": "receptance", "down": "value"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=1024, bos=0, eos=0, pad=None)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_epsilon", 1e-5), bias=True, rounding="native")
    embedding = common.embedding(reader, vocab=50277, width=4096, pad=None, norm=norm)
    width = embedding.width
    reader.agree("attention_hidden_size", reader.count("attention_hidden_size", optional=True) or width, width)
    inner = reader.count("intermediate_size", optional=True) or 4 * width
    for key in ("attn_implementation", "_attn_implementation"):
        reader.inert(key, None, "eager")
    every = reader.take("rescale_every", 6)
    depth = reader.count("num_hidden_layers", 32)
    layers = (_layer(index, every if every > 0 else depth + 1, inner, norm) for index in range(depth))
    last = Norm(kind="layer", eps=1e-5, bias=True, rounding="native")
    return common.decoder(reader, text, embedding, layers, last)


def _layer(index: int, every: int, inner: int, norm: Norm) -> Program:
    """So that half precision does not overflow the residual is halved behind every few layers, and what is added, too.

    The reference divides weights instead, in place: powers of two, which leave the bits alone.
    """
    scale = 0.5 ** (index // every) if index >= every else None
    halved = 2.0 if (index + 1) % every == 0 else None
    mixing = _step("recurrence", DecayedAverage(), norm, scale, None)
    return Program(steps=(mixing, _step("feed_forward", ShiftedFeedForward(width=inner), norm, scale, halved)))


def _step(name: str, part: Part, norm: Norm, scale: float | None, divisor: float | None) -> Step:
    """x = (x + scale · part(norm(x))) / divisor."""
    write = Write(terms=(Term(source="x"), Term(source=name, scale=scale)), divisor=divisor)
    return Step(norm=norm, branches=(Branch(name=name, part=part),), writes=(write,))  # type: ignore[arg-type]


def _mixer(ours: str, theirs: str, roles: dict[str, str], norm: str) -> dict[str, str | Squeezed]:
    mixed = {role: name for role, name in roles.items() if role not in ("output", "down")}
    return {
        f"{ours}_norm": f"{BLOCK}.{norm}",
        **{f"{ours}.{role}": f"{theirs}.{name}" for role, name in roles.items()},
        **{f"{ours}.shift.{role}": Squeezed(f"{theirs}.time_mix_{name}", axis=(0, 1)) for role, name in mixed.items()},
    }


FAMILY = Family(
    model_type="rwkv",
    title="RWKV-4",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "rwkv.embeddings",
            "embedding.norm": "rwkv.blocks.0.pre_ln",
            **_mixer("layers.{i}.recurrence", f"{BLOCK}.attention", TIME, "ln1"),
            "layers.{i}.recurrence.decay": f"{BLOCK}.attention.time_decay",
            "layers.{i}.recurrence.bonus": f"{BLOCK}.attention.time_first",
            **_mixer("layers.{i}.feed_forward", f"{BLOCK}.feed_forward", CHANNEL, "ln2"),
            "final_norm": "rwkv.ln_out",
            "head": "head",
        },
        wide_in_half=("*.decay", "*.bonus"),
    ),
    aliases={"context_length": "max_position_embeddings"},
    rope="none",
    tiny={"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "rescale_every": 0},
    draws={
        "hidden_size": (48, 32),
        "intermediate_size": (None, 40),
        "layer_norm_epsilon": (1e-5, 1e-2),
        "num_hidden_layers": (2, 3),
        "rescale_every": (0, 1, 2, 6),
        "tie_word_embeddings": (False, True),
    },
)
