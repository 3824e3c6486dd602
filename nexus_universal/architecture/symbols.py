"""Symbols that the equations share: norms, rotations, projections, gates and attention weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nexus_universal.architecture.mixers import OutputGate
from nexus_universal.architecture.notation import call, listed, number, product, says, word
from nexus_universal.architecture.position import Alibi, Norm, Rope
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK

PAIRS = {
    "half": "(i, i + d/2)",
    "interleaved": "(2i, 2i + 1)",
    "interleaved_to_half": r"(2i, 2i + 1) \text{ to } (i, i + d/2)",
}


@dataclass(slots=True)
class Names:
    """Symbols for the norms and rotations of one n, numbered where it has several of a kind.

    How many there are is known once everything has been named, so that equations are written twice.
    """

    used: list[Norm | Rope] = field(default_factory=list)
    written: dict[tuple[str, ...], str] = field(default_factory=dict)
    where: str = ""

    def once(self, lines: list[str]) -> list[str]:
        """`lines` that end in a definition, or a word on where they stand already."""
        place = self.written.setdefault(tuple(lines), self.where)
        if place == self.where or len(lines) < 3:
            return lines
        return [lines[-1].split(" = ")[0] + says(f" as in {place}")]

    def __call__(self, part: Norm | Rope, argument: str) -> str:
        """`part` applied to `argument`."""
        if part not in self.used:
            self.used.append(part)
        alike = [other for other in self.used if _stem(other) == _stem(part)]
        mark = f"_{{{alike.index(part) + 1}}}" if len(alike) > 1 else ""
        return f"{word(_stem(part))}{mark}({argument})"

    def optional(self, part: Norm | Rope | None, argument: str) -> str:
        """`argument` itself where there is no part."""
        return argument if part is None else self(part, argument)

    def definitions(self) -> list[str]:
        """What the symbols mean."""
        return [f"{self(part, 'x')} = {_meaning(part)}" for part in self.used]


def _stem(part: Norm | Rope) -> str:
    if isinstance(part, Rope):
        return "R"
    return "RMS" if part.kind == "rms" else "LN"


def _meaning(part: Norm | Rope) -> str:
    if isinstance(part, Rope):
        share = "" if part.fraction == 1 else says(f"the {part.part_rotated} {part.fraction:.4g} of d")
        scaling = "" if part.scaling is None else says(_scaling(part.scaling))
        angle = r"x \text{ turned by } " + ("-" if part.clockwise else "") + r"t\, \theta^{-2i/d}"
        base = r"\theta = " + number(part.theta)
        return listed(angle, share, base, r"\text{pairs } " + PAIRS[part.pairing], scaling)
    centred = "x" if part.kind == "rms" else r"(x - \mathrm{mean}(x))"
    spread = r"\mathrm{mean}(x^2)" if part.kind == "rms" else r"\mathrm{var}(x)"
    weight = {"weight": r"w \odot ", "one_plus_weight": r"(1 + w) \odot ", "none": ""}[part.scale]
    normed = weight + centred + r" / \sqrt{" + spread + f" + {number(part.eps)}}}" + (" + b" if part.bias else "")
    own = says(f"times its own gate of rank {part.gate_rank}") if part.gate_rank else ""
    return listed(normed, own, says("w in float32") if weight and part.rounding == "after_scale" else "")


def _scaling(part: Any) -> str:
    context = getattr(part, "original_context", None) or getattr(part, "context", None)
    kind = type(part).__name__.removesuffix("Scaling").lower()
    factor = f" by {part.factor:g}" if hasattr(part, "factor") else ""
    return f"{kind} scaling{factor}" + (f" from {context}" if context else "")


def linear(role: str, argument: str, bias: bool = False) -> str:
    """W_role argument (+ b_role)."""
    return f"W_{{{role}}} {argument}" + (f" + b_{{{role}}}" if bias else "")


def gated(expression: str, gate: OutputGate | None, bias: bool = False) -> str:
    """An output times its gate."""
    if gate is None:
        return expression
    learned = linear("g", "z", bias) + (" + b_{h}" if gate.head_bias else "")
    return product(expression, call(gate.activation, learned))


def output(name: str, expression: str, bias: bool = False, role: str = "o") -> str:
    """The last line of a mixer."""
    argument = f"({expression})" if " " in expression else expression
    return f"{call(name, 'z')} = {linear(role, argument, bias)}"


def softmax(
    scale: float | str, query: str, *, softcap: float | None = None, sinks: bool = False, alibi: Alibi | None = None
) -> str:
    """Attention weights of one query over the keys k."""
    score, bias = query + r" k^{\top}", r" + m_{h} j"
    if alibi and alibi.scaled:
        score = f"({score}{bias})"
    if scale != 1:
        score = (scale if isinstance(scale, str) else number(scale)) + r" \cdot " + score
    if softcap is not None:
        score = rf"{number(softcap)} \cdot \mathrm{{tanh}}({score} / {number(softcap)})"
    if alibi and not alibi.scaled:
        score += bias
    return call("softmax", score + (r" \mid b_{sink}" if sinks else ""))


def seen(window: int | None, causal: bool = True) -> str:
    """Which positions j a query at t meets."""
    if window is not None:
        return rf"t - {window} < j" + (r" \le t" if causal else "")
    return r"j \le t" if causal else says("all j")


def pattern(part: BlockSparse | Strided | TopK | None) -> str:
    """Which of those it keeps."""
    if isinstance(part, BlockSparse):
        near = rf"\lfloor t / {part.block} \rfloor - \lfloor j / {part.block} \rfloor < {part.local_blocks}"
        return near + (says(" or ") + f"j < {part.global_blocks * part.block}" if part.global_blocks else "")
    if isinstance(part, Strided):
        return f"t - j < {part.local}" + says(f" or t - j a multiple of {part.stride}")
    return "" if part is None else says(f"the {part.keys} keys with the highest scores")
