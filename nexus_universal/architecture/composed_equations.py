"""How parts are written that are made of several others; `equations` is that of `equations`, which these add to."""

from __future__ import annotations

from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.notation import call, joined, listed, number, product, says, times, within, word
from nexus_universal.architecture.recurrence_equations import equations
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.architecture.symbols import Names, linear, output, seen, softmax


@equations.register
def _(part: ConvolvedAttention, name: str, names: Names, width: int, model: int) -> list[str]:
    convolved = rf"\mathrm{{conv}}_{{{part.grouped}}}(\mathrm{{conv}}_{{{part.depthwise}}}({joined('a', 'b')}))"
    root = part.head_dim**0.5
    biased = part.bias
    return [
        listed(
            within(f"a = {linear('q', 'z', biased)}", part.heads, part.head_dim),
            within(f"b = {linear('k', 'z', biased)}", part.kv_heads, part.head_dim),
        ),
        listed(f"{joined('q', 'k')} = {convolved} + (m, " + r"\bar{m})".replace(r"\bar{m}", "m'"), "m = (a + b) / 2"),
        listed(
            "q = " + names(part.rope, times(root, r"q / \lVert q \rVert")),
            "k = " + names(part.rope, times(root, r"w k / \lVert k \rVert")),
            r"v = W_{v} z_{t} \Vert W_{d} z_{t-1}",
        ),
        listed("o = " + softmax(part.head_dim**-0.5, "q") + r"\, v", seen(part.window)),
        output(name, "o", biased),
    ]


@equations.register
def _(part: ResidualConvolution, name: str, names: Names, width: int, model: int) -> list[str]:
    return [rf"{call(name, 'z')} = z + \mathrm{{conv}}_{{{part.kernel}}}(z)" + says(" in float32")]


@equations.register
def _(part: ChainedExperts, name: str, names: Names, width: int, model: int) -> list[str]:
    chained = " + w r_{before}" if part.chained else ""
    inner = call("gelu", "V_{2} " + call("gelu", f"V_{{1}} {names(part.norm, 'r')}"))
    chosen = r"\mathrm{argmax}_{i} (p_{i} + b_{i})" + says(f" of {part.experts} and none")
    return [
        listed(
            within(f"r = {linear('r', 'z', True)}{chained}", part.width), f"p = {call('softmax', f'V_{{3}} {inner}')}"
        ),
        listed(f"i = {chosen}", f"{call(name, 'z')} = {product('p_{i}', 'E_{i}(z)')}"),
        *equations(part.expert, "E_{i}", names, width, model),
    ]


@equations.register
def _(part: HashedNgrams, name: str, names: Names, width: int, model: int) -> list[str]:
    mixed = r"(\mathrm{xor}_{p < n} \, m_{p} \cdot token_{t-p}) \, \mathrm{mod} \, r_{h}"
    among = rf"n = 2, \ldots , {part.order},\ {part.heads}" + says(" tables each")
    tables = within("E", f"({' + '.join(map(str, part.rows[:2]))} + \\ldots )", part.width // part.tables)
    match = rf"a_{{s}} = {names(part.norm, 'W_{k} r')}_{{s}} \cdot {names(part.norm, 'z_{s}')} / \sqrt{{d}}"
    convolved = rf"\mathrm{{conv}}_{{{part.kernel}, {part.order}}}({names(part.norm, 'v')})"
    return [
        listed(within(rf"r = \Vert _{{h}} \, E_{{h, {mixed}}}", part.width), among, tables),
        listed(says("separated by token ") + str(part.separator), f"m_{{0}} = {part.multipliers[0]}"),
        listed(match, "v_{s} = " + call("sigmoid", r"\mathrm{sign}(a_{s}) \sqrt{|a_{s}|}") + r" \cdot W_{v} r"),
        f"{call(name, 'z')} = v + {call('silu', convolved)}",
    ]


@equations.register
def _(part: Bridge, name: str, names: Names, width: int, model: int) -> list[str]:
    read = names.optional(part.donor_norm, word(part.donor) + f"_{{{part.layer}, j}}")
    where = r"j \le t" if part.align == "position" else says("token j read whole where token t ends")
    gates = [call("tanh", r"\alpha ")] if part.zero == "gate" else []
    if part.gate != "scalar":
        asked = "z" if part.gate == "token" else r"\mathrm{mean}_{j \le t}(z_{j})"
        gates.append(call("sigmoid", linear("c", asked, bias=True)))
    lines, formed = _formed(part, names, model)
    reached = says(f"the residual of {part.donor} after {part.layer} layers")
    return [
        listed(within(f"s_{{j}} = {read}", part.donor_width), reached, where),
        *lines,
        f"{call(name, 'z')} = " + r" \cdot ".join([*gates, formed]),
    ]


def _formed(part: Bridge, names: Names, model: int) -> tuple[list[str], str]:
    """Lines before what a bridge gives, gates apart, and that."""
    form = part.form
    if isinstance(form, CrossAttention):
        score = number(form.head_dim**-0.5) + r" \cdot q k^{\top} \mid 0"
        mixed = "o = " + call("softmax", score) + r"\, v"
        dims = (form.heads, form.head_dim)
        lines = [
            listed(within("q = W_{q} z", *dims), "k = W_{k} s", within("v = W_{v} s", *dims)),
            listed(mixed, says("and nothing for the share of 0")),
        ]
        gate = call("silu", "W_{g} z") if form.gated else ""
        return lines, "W_{o} " + (f"({product('o', gate)})" if gate else "o")
    if isinstance(form, Similarity):
        near = rf"\mathrm{{relu}}(\mathrm{{cos}}(z, p) - {number(form.threshold)})"
        return [within("p = P s_{t}", model)], rf"{near} \cdot (p - z)"
    return equations(form, "f", names, part.donor_width, model), call("f", "s_{t}")
