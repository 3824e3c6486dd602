"""HRM-Text: two stacks in nested loops, written out: low ← L(low + x) some times, x ← H(x + low), again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from nexus_universal.architecture.ends import Register
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, OutputGate
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Read, Step, Term, Write
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config, one program per turn of a loop."""
    text = common.text(reader, context=2048, bos=None, eos=None, pad=None)
    scale = reader.number("embedding_scale", None)
    table = {"scale": 1.0 / text.initializer_range if scale is None else scale, "scale_inputs": True}
    embedding = common.embedding(reader, vocab=151808, width=1536, pad=text.pad, **table)
    norm = common.rms_norm(reader, 1e-6, scale="none")
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=12,
        head_dim=128,
        biased=("query", "key", "value", "gate", "output"),
        gate=OutputGate(),
    )
    reader.require(
        embedding.width % attention.heads == 0, "hidden_size", embedding.width, f"needs {attention.heads} equal heads"
    )
    feed_forward = common.feed_forward(
        reader, 4096, biases=("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    )
    inflated = reader.count("num_hidden_layers", 16)
    depth = reader.count("num_layers_per_stack", None, optional=True) or inflated
    slow, fast = reader.count("H_cycles", 2), reader.count("L_cycles", 3)
    trained = reader.take("L_bp_cycles", None, kinds=(list, type(None)))
    trained = [2] if trained is None else trained
    if any(type(turns) is not int for turns in trained):
        raise reader.refuse("L_bp_cycles", trained, "must be a list of whole numbers")
    trained = [1] * (slow - len(trained)) + trained
    low, high = (list(_stack(own, attention, feed_forward, norm, depth=depth)) for own in ("low", "x"))
    layers = [
        layer
        for turn in range(slow)
        for inner in range(fast)
        for layer in (low if inner >= fast - trained[turn] else [replace(each, detached=True) for each in low])
        + (high if inner == fast - 1 else [])
    ]
    n = common.decoder(reader, text, embedding, layers, norm)
    return replace(n, final_norm=None, registers=(Register(name="low"),))


def _stack(own: str, attention: Attention, feed_forward: FeedForward, norm: Norm, *, depth: int) -> Iterator[Program]:
    """The layers of one stack, which work on the register `own`; the first of them reads the other, too."""
    other, name = ("x", "low") if own == "low" else ("low", "high")
    for index in range(depth):
        read = Read(registers=(own, other) if index == 0 else (own,))
        last = norm if index == depth - 1 else None
        steps = (
            _step("attention", attention, own, read=read, norm=norm),
            _step("feed_forward", feed_forward, own, read=Read(registers=(own,)), norm=norm, after=last),
        )
        yield Program(steps=steps, share=f"{name}.{index}")


def _step(name: str, part: Part, own: str, *, read: Read, norm: Norm, after: Norm | None = None) -> Step:
    terms = (Term(source="u"), Term(source=name))
    branch = Branch(name=name, part=part)  # type: ignore[arg-type]
    return Step(read=read, norm=norm, branches=(branch,), writes=(Write(terms=terms, register=own, norm=after),))


def _names(name: str, stack: str) -> names.Names:
    """The tensors of one stack, packed in files and apart in the reference."""
    layer, ours = f"model.{stack}.layers.{{i}}", f"shared.{name}.{{i}}"
    roles = [f"{ours}.attention.{role}" for role in ("gate", "query", "key", "value")]
    packed = names.sliced(f"{layer}.attn.gqkv_proj", *roles)
    packed |= names.sliced(f"{layer}.mlp.gate_up_proj", f"{ours}.feed_forward.gate", f"{ours}.feed_forward.up")
    packed |= {
        f"{ours}.attention.output": f"{layer}.attn.o_proj",
        f"{ours}.feed_forward.down": f"{layer}.mlp.down_proj",
    }
    apart = names.attention(layer) | names.gated(theirs=f"{layer}.mlp")
    apart |= {"layers.{i}.attention.gate": f"{layer}.self_attn.gate_proj"}
    held = {key.replace("layers.{i}", ours): rules for key, rules in apart.items()}
    return held | names.either(packed, held)


FAMILY = Family(
    model_type="hrm_text",
    title="HRM-Text",
    read=read,
    weights=names.weights(_names("low", "L_module"), _names("high", "H_module"), {"registers.low": "model.z_L_init"}),
    irrelevant={"prefix_lm": "speaks of token types, of which a causal text has none"},
    tiny=draws.without(draws.TINY, "num_key_value_heads") | {"head_dim": 12},
    draws=draws.without(draws.DENSE, "num_key_value_heads")
    | {
        "head_dim": (12, 16),
        "mlp_bias": (False, True),
        "H_cycles": (2, 1),
        "L_cycles": (3, 2, 1),
        "L_bp_cycles": (None, [1], [3], [2, 2]),
        "embedding_scale": (None, 7.5),
        "initializer_range": (0.02, 0.05),
    },
)
