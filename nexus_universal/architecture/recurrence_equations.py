"""How mixers are written that pass a state on; they add to the `equations` of `equations`."""

from __future__ import annotations

from nexus_universal.architecture.equations import equations
from nexus_universal.architecture.notation import (
    call,
    joined,
    listed,
    number,
    product,
    says,
    set_to,
    times,
    within,
)
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    DecayedAverage,
    GatedDeltaRule,
    GatedLinearRecurrence,
    LightningAttention,
    MatrixMemory,
    ShiftedFeedForward,
    ShortConvolution,
    StateSpace,
)
from nexus_universal.architecture.symbols import Names, linear, output


@equations.register
def _(part: GatedDeltaRule, name: str, names: Names, width: int, model: int) -> list[str]:
    convolved = rf"\mathrm{{conv}}_{{{part.convolution}}}(W z)"
    rank = "W_{a}, W_{g}" + says(f" of rank {part.low_rank}") if part.low_rank else ""
    per = says("per head" if part.decay == "head" else "per key channel")
    reach = None if part.beta_range == 1 else part.beta_range
    return [
        listed(
            f"{joined('q', 'k', 'v')} = {call(part.activation, convolved)}",
            within("q, k", part.key_heads, part.key_dim),
            within("v", part.value_heads, part.value_dim),
            says("q and k of length 1"),
        ),
        listed(
            r"\beta = " + times(reach, call("sigmoid", r"W_{b} z")),
            r"g = -e^{A} \, \mathrm{softplus}(W_{a} z + b)\ " + per,
            rank,
        ),
        listed(
            set_to("S", r"e^{g} S"),
            set_to("S", r"S + k (\beta (v - k^{\top} S))^{\top}"),
            "o = " + times(part.key_dim**-0.5, r"S^{\top} q"),
        ),
        output(name, product(names(part.norm, "o"), call(part.gate_activation, linear("g", "z")))),
    ]


@equations.register
def _(part: StateSpace, name: str, names: Names, width: int, model: int) -> list[str]:
    low, high = part.time_step
    bounded = "" if (low, high) == (0.0, float("inf")) else says(f"within [{low:g}, {high:g}]")
    scales = ""
    if part.input_scales:
        scales = says("scaled by ") + "(" + ", ".join(number(scale) for scale in part.input_scales) + ")"
    convolved = rf"\mathrm{{conv}}_{{{part.convolution}}}({joined('s', 'B', 'C')})"
    gate = call("silu", "g")
    if part.norm is None:
        out = product("y", gate)
    else:
        out = product(names(part.norm, "y"), gate) if part.norm_first else names(part.norm, product("y", gate))
    groups = says(f"normed in {part.norm_groups} groups") if part.norm_groups > 1 else ""
    return [
        listed(joined("g", "s", "B", "C", r"\delta ") + " = " + linear("i", "z", "input" in part.biases), scales),
        listed(
            set_to(joined("s", "B", "C"), call(part.activation, convolved)),
            within("s", part.heads, part.head_dim),
            within("B, C", part.groups, part.state_dim),
        ),
        listed(r"\Delta = \mathrm{softplus}(\delta + b)", bounded),
        listed(set_to("S", r"e^{-e^{A} \Delta } S + \Delta \, s B^{\top}"), "y = S C + D s"),
        listed(output(name, out, "output" in part.biases), groups),
    ]


@equations.register
def _(part: ShortConvolution, name: str, names: Names, width: int, model: int) -> list[str]:
    convolved = rf"\mathrm{{conv}}_{{{part.kernel}}}({product('B', 'x')})" + (" + b" if part.bias else "")
    return [
        f"{joined('B', 'C', 'x')} = " + linear("i", "z", part.bias),
        output(name, product("C", convolved), part.bias),
    ]


@equations.register
def _(part: ChannelStateSpace, name: str, names: Names, width: int, model: int) -> list[str]:
    convolved = rf"\mathrm{{conv}}_{{{part.convolution}}}(x)" + (" + b" if part.convolution_bias else "")
    d, b, c = (names.optional(part.inner_norm, role) for role in (r"\delta ", "B", "C"))
    return [
        within(f"{joined('x', 'g')} = " + linear("i", "z", "input" in part.biases), 2, part.width),
        listed(
            set_to("x", call(part.activation, convolved)),
            within(joined(r"\delta ", "B", "C") + " = W_{c} x", rf"{part.rank} + 2 \cdot {part.state_dim}"),
        ),
        rf"\Delta = \mathrm{{softplus}}(W_{{s}} {d} + b_{{s}})",
        listed(
            set_to("S", rf"e^{{-e^{{A}} \Delta }} \odot S + \Delta \, x {b}^{{\top}}"),
            within("S", part.width, part.state_dim),
            rf"y = S {c} + D \odot x",
        ),
        output(name, product("y", call("silu", "g")), "output" in part.biases),
    ]


@equations.register
def _(part: GatedLinearRecurrence, name: str, names: Names, width: int, model: int) -> list[str]:
    convolved = rf"\mathrm{{conv}}_{{{part.convolution}}}({linear('x', 'z', True)}) + b"
    return [
        within(set_to("x", convolved), part.heads, part.width // part.heads),
        listed("i = " + call("sigmoid", linear("i", "x", True)), "r = " + call("sigmoid", linear("r", "x", True))),
        listed(r"a = e^{-8 r \odot \mathrm{softplus}(\Lambda )}", says("0 at position 0")),
        set_to("h", r"a \odot h + \sqrt{1 - a^{2}} \odot i \odot x"),
        output(name, product("h", call(part.activation, linear("y", "z", True))), True),
    ]


@equations.register
def _(part: LightningAttention, name: str, names: Names, width: int, model: int) -> list[str]:
    slope = rf"s_{{h}} = 2^{{-8(h + 1)/{part.heads}}} (1 - \ell / {part.depth - 1} + 10^{{-5}})"
    return [
        within(f"{joined('q', 'k', 'v')} = {call(part.activation, 'W z')}", part.heads, rf"3 \cdot {part.head_dim}"),
        listed(set_to("S", r"e^{-s_{h}} S + k^{\top} v"), "o = q S", slope),
        output(name, product(call("sigmoid", linear("g", "z")), names(part.norm, "o"))),
    ]


SHIFTED = r"z_{m} = m \odot z + (1 - m) \odot z_{t-1}"


@equations.register
def _(part: DecayedAverage, name: str, names: Names, width: int, model: int) -> list[str]:
    return [
        listed(SHIFTED, says("an m for each of k, v, r")),
        listed("k = " + linear("k", "z_{m}"), "v = " + linear("v", "z_{m}"), "r = " + linear("r", "z_{m}")),
        r"a = (S + e^{u + k} \odot v) / (n + e^{u + k})",
        listed(set_to("S", r"e^{-e^{w}} \odot S + e^{k} \odot v"), set_to("n", r"e^{-e^{w}} \odot n + e^{k}")),
        output(name, product(call("sigmoid", "r"), "a")),
    ]


@equations.register
def _(part: ShiftedFeedForward, name: str, names: Names, width: int, model: int) -> list[str]:
    inner = call("relu", linear("u", "z_{m}")) + "^{2}"
    return [
        listed(SHIFTED, says("an m for each of u, r")),
        within("h = " + inner, part.width),
        f"{call(name, 'z')} = " + product(call("sigmoid", linear("r", "z_{m}")), linear("d", "h")),
    ]


@equations.register
def _(part: MatrixMemory, name: str, names: Names, width: int, model: int) -> list[str]:
    capped = rf"{number(part.gate_cap)} \cdot \mathrm{{tanh}}((W z + b) / {number(part.gate_cap)})"
    return [
        listed(
            f"{joined('q', 'k', 'v')} = W z",
            within("q, k", part.heads, part.key_dim),
            within("v", part.heads, part.value_dim),
        ),
        listed(f"{joined('i', 'f')} = {capped}", r"\ell = \mathrm{log}\, " + call("sigmoid", "f")),
        listed(
            set_to("m", r"\mathrm{max}(\ell + m, i)"),
            set_to("C", r"e^{\ell } C + e^{i} k v^{\top}"),
            set_to("n", r"e^{\ell } n + e^{i} k"),
        ),
        rf"h = C^{{\top}} q / (\mathrm{{max}}(|n^{{\top}} q|, 1) + {number(part.eps)} e^{{m}}),\quad "
        + says("q scaled by ")
        + number(part.key_dim**-0.5),
        output(name, product(call("sigmoid", linear("g", "z")), names(part.norm, "h"))),
    ]
