"""Mathematics written once, in a small part of LaTeX, and read as LaTeX or as Unicode text."""

from __future__ import annotations

import math
import re

from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.architecture.position import RelativeBias

_WORDS = {
    r"\leftarrow": "←",
    r"\cdot": "·",
    r"\odot": "⊙",
    r"\times": "×",
    r"\in": "∈",
    r"\cup": "∪",
    r"\le": "≤",
    r"\sum": "Σ",
    r"\top": "ᵀ",
    r"\infty": "∞",
    r"\lVert": "‖",
    r"\rVert": "‖",
    r"\Vert": "‖",
    r"\lfloor": "⌊",
    r"\rfloor": "⌋",
    r"\ldots": "…",
    r"\lambda": "λ",
    r"\gamma": "γ",
    r"\Gamma": "Γ",
    r"\mid": "|",
    r"\alpha": "α",
    r"\beta": "β",
    r"\delta": "δ",
    r"\Delta": "Δ",
    r"\epsilon": "ε",
    r"\ell": "ℓ",
    r"\sigma": "σ",
    r"\theta": "θ",
    r"\mathbb{R}": "ℝ",
    r"\quad": "  ",
    r"\,": "",
    r"\{": "{",
    r"\}": "}",
    r"\_": "_",
}
_LOWER = dict(zip("0123456789+-=()aehijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", strict=True))
_UPPER = dict(zip("0123456789+-=()inT", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁱⁿᵀ", strict=True)) | {"ᵀ": "ᵀ"}
_TOKEN = re.compile(r"\\mathbb\{R\}|\\[A-Za-z]+ ?|\\.|[_^{}]|[^\\_^{}]+")


def raised(part: DynamicMask | None) -> str:
    """What keys add to their own scores."""
    if part is None:
        return ""
    return r"s_{j} = q \cdot k_{j} + e^{a \, \mathrm{softplus}(W_{a} v_{j})}" + says(
        f" for the {part.keep} keys with the highest"
    )


def by_distance(part: RelativeBias | None) -> str:
    """What queries add to their scores by distance."""
    if part is None:
        return ""
    mixing = "W_{r} z" if part.length_limit is None else limited(r"w_{r} \odot W_{r} z", part.length_limit)
    return rf"s_{{j}} = q \cdot k_{{j}} + ({mixing})^{{\top}} p_{{t-j}},\quad t - j < {part.extent}"


def limited(expression: str, most: float | None) -> str:
    """A vector no longer than `most`."""
    return expression if most is None else rf"\mathrm{{shortened}}_{{{number(most)}}}({expression})"


def to_unicode(latex: str) -> str:
    r"""Plain text of what `equations` write: `W_{q} z \in \mathbb{R}^{8 \times 64}` becomes `W_q z ∈ ℝ^(8 × 64)`."""
    text, _ = _read(_TOKEN.findall(latex), 0)
    text = re.sub(r"(?<=\S) +(?=[)\],])", "", text)
    return re.sub(r"(?<!,) +", " ", re.sub(r", {2,}", ",  ", text)).strip()


def _read(tokens: list[str], at: int) -> tuple[str, int]:
    out = ""
    while at < len(tokens) and tokens[at] != "}":
        token = tokens[at]
        at += 1
        if token in ("_", "^"):
            script, at = _argument(tokens, at)
            out += _script(script, token)
        elif token == "{":
            inner, at = _read(tokens, at)
            out, at = out + inner, at + 1
        elif token.rstrip() in (r"\mathrm", r"\text", r"\textbf"):
            inner, at = _argument(tokens, at)
            out += inner
        elif token.rstrip() == r"\sqrt":
            inner, at = _argument(tokens, at)
            out += f"√{inner}" if inner.isalnum() else f"√({inner})"
        elif token.startswith("\\"):
            out += _WORDS.get(token.rstrip(), token.strip("\\ ")) + (" " if token.endswith(" ") else "")
        else:
            out += token
    return out, at


def _argument(tokens: list[str], at: int) -> tuple[str, int]:
    """What a command or a script applies to: a group in braces, a command, or one character."""
    if tokens[at] == "{":
        inner, at = _read(tokens, at + 1)
        return inner, at + 1
    if tokens[at].startswith("\\"):
        return _WORDS.get(tokens[at].rstrip(), tokens[at]), at + 1
    first, rest = tokens[at][0], tokens[at][1:]
    if rest:
        tokens[at] = rest
        return first, at
    return first, at + 1


def _script(text: str, kind: str) -> str:
    text = text.strip()
    table = _LOWER if kind == "_" else _UPPER
    if all(character in table for character in text):
        return "".join(table[character] for character in text)
    return f"{kind}{text}" if text.isalnum() else f"{kind}({text})"


def number(value: float) -> str:
    """A number in LaTeX, as short as six digits allow: 1e-06 becomes 10^{-6}."""
    if math.isinf(value):
        return r"\infty" if value > 0 else r"-\infty"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    power = f"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"


def word(name: str) -> str:
    """A name in upright letters."""
    return r"\mathrm{" + name.replace("_", r"\_") + "}"


def symbol(name: str) -> str:
    """A register or a branch: one letter stays italic, a name is upright."""
    return name if len(name) == 1 else word(name)


def says(text: str) -> str:
    """A few words between formulas."""
    return r"\text{" + text.replace("_", r"\_") + "}"


def call(name: str, argument: str) -> str:
    """A function applied to something; the sigmoid has a symbol."""
    return (r"\sigma" if name == "sigmoid" else word(name)) + f"({argument})"


def times(scale: float | None, expression: str) -> str:
    """An expression times a number, if there is one."""
    return expression if scale is None else rf"{number(scale)} \cdot {expression}"


def space(*dims: int | str) -> str:
    """The real vectors, matrices, … of these dimensions."""
    return r"\mathbb{R}^{" + r" \times ".join(str(dim) for dim in dims) + "}"


def within(expression: str, *dims: int | str) -> str:
    """expression ∈ ℝ^dims."""
    return expression + r" \in " + space(*dims)


def listed(*expressions: str) -> str:
    """Expressions in one line, the empty ones left out."""
    return r",\quad ".join(expression for expression in expressions if expression)


def joined(*expressions: str) -> str:
    """[a | b | c], concatenated."""
    return "[" + r" \mid ".join(expressions) + "]"


def set_to(left: str, right: str) -> str:
    """left ← right."""
    return left + r" \leftarrow " + right


def product(left: str, right: str) -> str:
    """left ⊙ right, or left alone."""
    return left + r" \odot " + right if right else left


def bracketed(expression: str) -> str:
    """A sum in brackets, anything else as it is."""
    depth = 0
    for at, character in enumerate(expression):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and expression.startswith(" + ", at):
            return f"({expression})"
    return expression
