"""What both generations of Inkling share: their ends, the geometry of each kind of layer, and their wiring."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.ends import Embedding, Head, Text
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Read, Step, Term, Write
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.families.shared import common
from nexus_universal.families.shared.reader import ConfigReader

READ = Read()


def ends(
    reader: ConfigReader, norm: Norm, *, unpadded: int | None = None, **defaults: Any
) -> tuple[Text, Embedding, bool]:
    """Text, token table, and whether rows of both matrices lie behind the vocabulary; looked-up rows are normed."""
    reader.inert("number_of_conv_states", 4)
    text, table = common.ends(reader, norm=norm, norm_rows=True, **defaults)
    scored = reader.count("unpadded_vocab_size", unpadded, optional=True)
    if scored is None or scored >= table.vocab:
        return text, table, False
    return text, replace(table, vocab=scored, spare=table.vocab - scored), True


def geometry(reader: ConfigReader, kind: str, *, heads: int, kv_heads: int) -> dict[str, Any]:
    """Heads, key/value heads and a head's width in layers of a kind; the numbers are the class's defaults."""
    return {
        "heads": reader.count(f"{kind}num_attention_heads", heads),
        "kv_heads": reader.count(f"{kind}num_key_value_heads", kv_heads),
        "head_dim": reader.count(f"{kind}head_dim", 128),
    }


def _to_y(name: str, part: Part, *, norm: Norm | None, read: Read = READ, scaled: bool = False) -> Step:
    """What a part makes of the residual, in a register of its own; a `scaled` one times a number."""
    term = Term(source=name, gain="number" if scaled else "none")
    branch = Branch(name=name, part=part)  # type: ignore[arg-type]
    return Step(read=read, norm=norm, branches=(branch,), writes=(Write(register="y", terms=(term,)),))


def _from_y(
    name: str, convolution: ResidualConvolution, *before: Write, dtype: Any = "terms", adds: bool = True
) -> Step:
    """The convolution of that, added to the residual, or put in its place; behind other writes."""
    branch = Branch(name=f"{name}_convolution", part=convolution)
    terms = (*((Term(source="x"),) if adds else ()), Term(source=branch.name))
    writes = (*before, Write(terms=terms, dtype=dtype))
    return Step(read=Read(registers=("y",)), branches=(branch,), writes=writes)


def layer(
    mixer: Attention,
    feed_forward: Part,
    *,
    norm: Norm,
    convolution: ResidualConvolution,
    reads: tuple[Read, Read] = (READ, READ),
    begun: str | None = None,
    rounded: bool = False,
) -> Program:
    """Attention, then feed-forward, each behind a norm and before a convolution; a dense one times a number.

    `begun` is where what was before this layer is put away. Sums are float32 within a `rounded` layer.
    """
    away = (Write(register=begun, terms=(Term(source="x"),)),) if begun else ()
    inside, behind = ("float32", "model") if rounded else ("terms", "terms")
    scaled = isinstance(feed_forward, FeedForward)
    return Program(
        steps=(
            _to_y("attention", mixer, norm=None if mixer.apart else norm, read=reads[0]),
            _from_y("attention", convolution, *away, dtype=inside, adds=not begun),
            _to_y("feed_forward", feed_forward, norm=norm, read=reads[1], scaled=scaled),
            _from_y("feed_forward", convolution, dtype=behind),
        )
    )


def decoder(
    text: Text, embedding: Embedding, layers: Iterable[Program], norm: Norm, *, spare: bool, **head: Any
) -> ArchitectureParameter:
    """The whole n, whose head is never tied."""
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers),
        final_norm=norm,
        head=Head(tied=False, spare=spare, **head),
        text=text,
    )
