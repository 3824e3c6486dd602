"""The equations of one n: embedding, every kind of layer with the indices it stands at, final norm and head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nexus_universal.architecture.composed_equations import equations
from nexus_universal.architecture.notation import (
    bracketed,
    call,
    joined,
    listed,
    number,
    product,
    says,
    set_to,
    symbol,
    times,
    to_unicode,
    within,
    word,
)
from nexus_universal.architecture.paths import ranges
from nexus_universal.architecture.position import SinusoidPositions
from nexus_universal.architecture.program import (
    AltUp,
    Branch,
    ChannelGatedStreams,
    GatedStreams,
    HyperConnection,
    Program,
    Step,
    StreamSlice,
    Term,
    Write,
)
from nexus_universal.architecture.stream_gate import StreamGate
from nexus_universal.architecture.symbols import Names, linear

if TYPE_CHECKING:
    from nexus_universal.architecture.ends import Bands
    from nexus_universal.architecture.fusion import Fusion
    from nexus_universal.architecture.parameter import ArchitectureParameter

INDENT = r"\quad "
ELLIPSIS = r"\ldots "


@dataclass(frozen=True, slots=True)
class Formula:
    """Titled groups of equations, each line written in LaTeX; `str` gives Unicode."""

    groups: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def latex(self) -> str:
        """One `aligned` environment for a display."""
        rows = [
            row
            for title, lines in self.groups
            for row in (r"&\textbf{" + title + "}", *(f"&{INDENT}{x}" for x in lines))
        ]
        return "\\begin{aligned}\n" + " \\\\\n".join(rows) + "\n\\end{aligned}"

    @property
    def unicode(self) -> str:
        """Plain text."""
        return "\n".join(text for title, lines in self.groups for text in (title, *map(_plain, lines)))

    def __str__(self) -> str:
        return self.unicode


def _plain(line: str) -> str:
    depth = 1
    while line.startswith(INDENT):
        line, depth = line.removeprefix(INDENT), depth + 1
    return "  " * depth + to_unicode(line)


def formula(n: ArchitectureParameter) -> Formula:
    """Write the equations of n; of a fused one those of every branch, and of their join."""
    if n.fusion is not None:
        parts = [(name, formula(branch).groups) for name, branch in n.branches.items()]
        groups = [(f"{name} · {title}", lines) for name, found in parts for title, lines in found]
        return Formula((*groups, ("Join", tuple(_join(n.fusion)))))
    names = Names()
    tuple(_groups(n, names))
    names.written.clear()
    return Formula(tuple((title, tuple(lines)) for title, lines in _groups(n, names) if lines))


def _join(fusion: Fusion) -> list[str]:
    """What becomes of the branches' logits."""
    names = [fusion.name, *(member.name for member in fusion.members)]
    each = [f"{word('logits')}_{{{word(name)}}}" for name in names]
    if fusion.join == "route":
        return [set_to(word("logits"), listed(each[0], says("or those of the branch that a call names")))]
    if fusion.join == "all":
        return [set_to(word("logits"), joined(*each))]
    shares = (times(share, call("softmax", one)) for share, one in zip(fusion.shares, each, strict=True))
    return [set_to(word("logits"), call("log", " + ".join(shares)))]


def _groups(n: ArchitectureParameter, names: Names) -> Iterator[tuple[str, list[str]]]:
    yield "Embedding", _embedding(n, names)
    widths = dict.fromkeys(["x", "e", *(register.name for register in n.registers)], n.embedding.width)
    for layers, program, where in _kinds(n):
        title = f"Layer {where}" if len(layers) == 1 else f"Layers {where} ({len(layers)} of {len(n.layers)})"
        names.where = f"{'layer' if len(layers) == 1 else 'layers'} {where}"
        yield title, [*_program(program, names, widths, n.embedding.width), *_shares(n, layers)]
    yield "Head", _head(n, names)
    yield "where", names.definitions()


def _kinds(n: ArchitectureParameter) -> Iterator[tuple[tuple[int, ...], Program, str]]:
    """Layers that compute the same, whatever weights they share."""
    kinds: dict[Program, list[int]] = {}
    for index, layer in enumerate(n.layers):
        kinds.setdefault(_without_shares(layer), []).append(index)
    yield from ((tuple(indices), program, ranges(tuple(indices))) for program, indices in kinds.items())


def _without_shares(program: Program) -> Program:
    def bare(branch: Branch) -> Branch:
        part = _without_shares(branch.part) if isinstance(branch.part, Program) else branch.part
        return replace(branch, part=part, share=None, adapters=())

    steps = tuple(replace(step, branches=tuple(bare(branch) for branch in step.branches)) for step in program.steps)
    return replace(program, steps=steps, share=None)


def _shares(n: ArchitectureParameter, layers: tuple[int, ...]) -> list[str]:
    """Which of these layers use the same weights."""
    users: dict[tuple[str, str], list[int]] = {}
    for index in layers:
        if n.layers[index].share:
            users.setdefault(("all weights", n.layers[index].share or ""), []).append(index)
        for path, branch in n.layers[index].all_branches():
            if branch.share:
                users.setdefault((f"weights of {path}", branch.share), []).append(index)
    return [says(f"{what} {name!r} in layers {ranges(tuple(at))}") for (what, name), at in users.items()] + [
        says(
            f"low-rank additions to {branch.name}: "
            + ", ".join(f"{a.target} of rank {a.rank}" for a in branch.adapters)
        )
        for _, branch in n.layers[layers[0]].all_branches()
        if branch.adapters
    ]


def _program(program: Program, names: Names, widths: dict[str, int], model: int) -> list[str]:
    """The wiring of every step, each followed by what its branches compute."""
    return [line for step in program.steps for line in _step(step, names, widths, model)]


def _step(step: Step, names: Names, widths: dict[str, int], model: int) -> list[str]:
    width = step.read.width(widths)
    sources = {term.source for write in step.writes for term in write.terms}
    lines, u = _read(step, names)
    if " " in u or "u" in sources:
        lines.append(within(f"u = {u}", width))
        u = "u"
    v = names.optional(step.norm, u)
    if "v" in sources or (step.norm and len(step.branches) > 1):
        lines.append(f"v = {v}")
        v = "v"
    outputs = {branch.name: _output(branch, v, names) for branch in step.branches}
    if step.connection:
        lines += [f"y = {_sum(step.writes[0], outputs, names)}", *_back_to_streams(step, names)]
    else:
        lines += [set_to(symbol(write.register), _sum(write, outputs, names)) for write in step.writes]
    widths.update({write.register: width if write.terms[0].source in ("u", "v") else model for write in step.writes})
    for branch in step.branches:
        if isinstance(branch.part, Program):
            inner = _program(branch.part, names, {**widths, "x": width}, model)
            lines += [f"{call(branch.name, 'z')}: x = z", *(INDENT + line for line in inner)]
            lines.append(INDENT + f"{call(branch.name, 'z')} = x")
        else:
            lines += names.once(equations(branch.part, branch.name, names, width, model))
    return lines


def _read(step: Step, names: Names) -> tuple[list[str], str]:
    """Lines before u, and u."""
    connection = step.connection
    if isinstance(connection, HyperConnection):
        eps, streams = number(connection.eps), joined("x_{1}", ELLIPSIS, f"x_{{{connection.streams}}}")
        maps = joined(r"\alpha ", r"\gamma ", r"\Gamma ") + f" = F {call('RMS', streams)}"
        mixing = call("softmax", r"s_{2} \Gamma + B") + f" + {eps}"
        weights = (
            f"a = {call('sigmoid', r's_{0} ALPHA + b')} + {eps}".replace("ALPHA", r"\alpha"),
            f"c = 2 {call('sigmoid', 's_{1} GAMMA + b')}".replace("GAMMA", r"\gamma"),
            rf"C = \mathrm{{sinkhorn}}_{{{connection.iterations}}}({mixing})",
        )
        return [maps, listed(*weights)], r"\sum_{j} a_{j} x_{j}"
    if isinstance(connection, GatedStreams):
        eps, streams = number(connection.eps), joined("x_{1}", ELLIPSIS, f"x_{{{connection.streams}}}")
        maps = joined(r"\alpha ", r"\gamma ") + f" = F {call('RMS', streams)}"
        magnitude = number(connection.magnitude)
        gates = call("sigmoid", r"s_{0} \alpha + b"), call("sigmoid", r"s_{1} \gamma + b")
        weights = f"a = {gates[0]} + {eps}", f"c = {magnitude} {gates[1]} + {eps}"
        return [maps, listed(*weights)], r"\sum_{j} a_{j} x_{j}"
    if isinstance(connection, ChannelGatedStreams):
        normed, u = _gated_streams(connection.gate, connection.streams, names)
        return [listed(normed, f"c = 2 {call('sigmoid', f'C n / {connection.streams}')}")], u
    if isinstance(connection, AltUp):
        active = connection.active
        predicted = r"p_{j} = x_{j} + \sum_{k} P_{jk} x_{k}"
        return [listed(predicted, f"P = W_{{p}} {_modes(connection, names, f'x_{{{active}}}')}")], f"p_{{{active}}}"
    if isinstance(connection, StreamSlice):
        stream = f"x_{{{connection.read}}}"
        return [], product("w", stream) if connection.read_scale else stream
    registers = [symbol(name) for name in step.read.registers]
    if step.read.join == "attend":
        one = r"\sum_{j} \mathrm{softmax}_{j}(q \cdot y_{j} / \sqrt{d}) \, y_{j}"
        stacked = rf"y = {call('RMS', ', '.join(registers))}"
        each = says(f"for {step.read.queries} learned q, side by side") if step.read.queries > 1 else ""
        return [listed(stacked, each)], times(step.read.scale, one)
    read = joined(*registers) if step.read.join == "concat" else " + ".join(registers)
    return [], times(step.read.scale, bracketed(read) if step.read.scale is not None else read)


def _gated_streams(gate: StreamGate, streams: int, names: Names) -> tuple[str, str]:
    """A line that says what n is, and the vector that a gate makes of streams."""
    gates = call("sigmoid", f"B {call('silu', f'A n / {streams}')}") + "_{j}"
    normed = f"n_{{j}} = {names(gate.norm, 'x_{j}')}"
    return listed(normed, within("A", gate.rank, f"{streams} d")), rf"\mathrm{{mean}}_{{j}}({product(gates, 'n_{j}')})"


def _back_to_streams(step: Step, names: Names) -> list[str]:
    connection = step.connection
    if isinstance(connection, GatedStreams | ChannelGatedStreams):
        return [set_to("x_{j}", r"x_{j} + c_{j} y")]
    if isinstance(connection, HyperConnection):
        return [set_to("x_{j}", r"c_{j} y + \sum_{i} C_{ij} x_{i}")]
    if isinstance(connection, AltUp):
        corrected = set_to("x_{j}", f"p_{{j}} + (1 + C_{{j}})(y - p_{{{connection.active}}})")
        return [listed(corrected, f"C = W_{{c}} {_modes(connection, names, 'y')}")]
    assert isinstance(connection, StreamSlice)
    return [listed(set_to("x_{j}", "x_{j} + y"), r"j \in \{" + ", ".join(map(str, connection.write)) + r"\}")]


def _modes(connection: AltUp, names: Names, argument: str) -> str:
    return call("tanh", f"M {names(connection.norm, argument)} / d")


def _output(branch: Branch, v: str, names: Names) -> str:
    inner = times(branch.input_scale, names.optional(branch.input_norm, v))
    return names.optional(branch.output_norm, call(branch.name, inner))


def _sum(write: Write, outputs: dict[str, str], names: Names) -> str:
    terms = [_term(term, outputs) for term in write.terms]
    total = " + ".join(terms)
    if write.divisor is not None:
        total = f"{bracketed(total)} / {number(write.divisor)}"
    total = names.optional(write.norm, total)
    if write.dtype != "terms":
        total = f"{bracketed(total)} " + says(f"in {'float32' if write.dtype == 'float32' else 'the dtype of weights'}")
    if write.scale is not None:
        total = times(write.scale, bracketed(total))
    return bracketed(total) + r" \cdot \lambda_{\ell }" if write.layer_scale else total


def _term(term: Term, outputs: dict[str, str]) -> str:
    value = times(term.scale, outputs.get(term.source) or symbol(term.source))
    if term.gain == "shift_scale":
        value = f"({value} + b_{{{term.source}}})"
    if term.gain == "number":
        return rf"w_{{{term.source}}} \cdot {value}"
    return value if term.gain == "none" else product(f"w_{{{term.source}}}", value)


def _embedding(n: ArchitectureParameter, names: Names) -> list[str]:
    part = n.embedding
    rows = times(part.scale, r"E_{token}")
    if part.norm_first:
        rows = names.optional(part.norm, rows)
    inner = part.table_width
    if part.beside:
        first = (rf"F^{{{each.name}}}_{{0}}" for each in part.beside)
        rows = linear("j", "[" + r" \mid ".join((rows, *first)) + "]", bias=True)
    if part.types:
        rows += " + T_{0}"
    if part.positions:
        rows += " + P_{t" + (f" + {part.positions.offset}" if part.positions.offset else "") + "}"
    if part.tasks:
        rows += " + K_{0}"
    wide = says("in float32") if part.dtype != "model" else ""
    rows = names.optional(None if part.norm_first else part.norm, rows)
    if part.narrow:
        rows = linear("e", rows if part.norm else bracketed(rows), part.narrow.bias)
    if part.gain:
        rows = product("w_{e}", f"({rows} + b_{{e}})")
    lines = [listed(f"x = e = {rows}", wide)]
    lines += [within(name, count, inner) for name, count in (("T", part.types), ("K", part.tasks)) if count]
    lines += [within(rf"F^{{{each.name}}}", each.count, each.width) for each in part.beside]
    if part.bands is None:
        lines[0] = listed(lines[0], within("E", part.rows, inner))
    else:
        lines += _banded_rows(part.bands, vocab=part.vocab, width=part.width)
    if isinstance(part.positions, SinusoidPositions):
        lines.append(_sinusoids(part.positions))
    elif part.positions:
        uncounted = part.positions.uncounted
        skipped = "" if uncounted is None else says(f"t counts no token {uncounted}")
        lines.append(listed(within("P", part.positions.count, inner), skipped))
    if part.per_layer:
        table, width = part.per_layer, part.per_layer.width
        projected = names(table.norm, rf"{number(part.width**-0.5)} \cdot W_{{p}} e")
        mixed = rf"p_{{\ell }} = ({projected} + {number(width**0.5)} \cdot E'_{{token}}) / \sqrt{{2}}"
        lines.append(listed(within(mixed, width), within("E'", table.vocab, len(n.layers), width)))
    lines += [within(f"{symbol(register.name)} = " + says("learned"), part.width) for register in n.registers]
    if n.streams and n.streams.fill == "copy":
        lines.append(f"x_{{1}} = {ELLIPSIS}= x_{{{n.streams.count}}} = e")
    elif n.streams:
        last = n.streams.count - 1
        lines.append(listed("x_{0} = e", r"x_{j} = \mathrm{rescaled}_{e}(W_{j} e)", rf"j = 1, \ldots , {last}"))
    return lines


def _sinusoids(part: SinusoidPositions) -> str:
    """What the rows of a table of sinusoids hold."""
    places = {"pairs": ("2i", "2i+1"), "sin_cos": ("i", "d/2+i"), "cos_sin": ("d/2+i", "i")}[part.layout]
    waves = (rf"P_{{t, {at}}} = {call(wave, 'a_{i}')}" for wave, at in zip(("sin", "cos"), places, strict=True))
    falling = "-i/(d/2-1)" if part.closed else "-2i/d"
    row = "" if part.zero is None else f"P_{{{part.zero}}} = 0"
    skipped = "" if part.uncounted is None else says(f"t counts no token {part.uncounted}")
    return listed(*waves, rf"a_{{i}} = t \cdot 10000^{{{falling}}}", rf"t \in [0, {part.count})", row, skipped)


def _banded_rows(bands: Bands, *, vocab: int, width: int) -> list[str]:
    return [
        listed(
            rf"E_{{token}} = W_{{e{i}}} T^{{({i})}}_{{token}}",
            rf"token \in [{start}, {end})",
            within(f"T^{{({i})}}", end - start, inner),
        )
        for i, (start, end, inner) in enumerate(bands.spans(vocab=vocab, width=width))
    ]


def _banded_logits(bands: Bands, hidden: str, *, vocab: int, width: int) -> list[str]:
    (_, first, _), *further = bands.spans(vocab=vocab, width=width)
    return [
        listed(f"a = {call('logsoftmax', linear('h', hidden))}", within("W_{h}", f"({first} + {len(further)})", width)),
        rf"\mathrm{{logits}} = a_{{token}},\quad token \in [0, {first})",
        *(
            listed(
                rf"\mathrm{{logits}} = a_{{{first + i - 1}}} + {call('logsoftmax', f'W_{{u{i}}} W_{{d{i}}} {hidden}')}",
                rf"token \in [{start}, {end})",
                within(f"W_{{d{i}}}", rank, width),
            )
            for i, (start, end, rank) in enumerate(further, start=1)
        ),
    ]


def _head(n: ArchitectureParameter, names: Names) -> list[str]:
    lines = []
    if n.streams and n.streams.merge == "weigh":
        normed = call("RMS", joined("x_{1}", ELLIPSIS, f"x_{{{n.streams.count}}}"))
        weights = call("sigmoid", f"s W_{{a}} {normed} + b") + f" + {number(n.streams.eps)}"
        lines.append(listed(r"x = \sum_{j} a_{j} x_{j}", f"a = {weights}"))
    elif n.streams and n.streams.gate:
        normed, x = _gated_streams(n.streams.gate, n.streams.count, names)
        lines += [normed, f"x = {x}"]
    elif n.streams:
        lines.append(r"x = \mathrm{mean}(x_{0}, \mathrm{rescaled}_{x_{0}}(W'_{j} x_{j}))")
    if n.head.bands:
        hidden = names.optional(n.final_norm, "x")
        return lines + _banded_logits(n.head.bands, hidden, vocab=n.embedding.vocab, width=n.embedding.width)
    hidden = names.optional(n.final_norm, "x")
    transform, width = n.head.transform, n.embedding.width
    if transform:
        hidden = names(transform.norm, call(transform.activation, linear("a", hidden, transform.bias)))
        width = transform.width
    hidden = hidden if n.head.input_divisor is None else f"({hidden} / {number(n.head.input_divisor)})"
    logits = linear("h", hidden, n.head.bias)
    logits = times(n.head.scale, f"({logits})" if n.head.bias and n.head.scale is not None else logits)
    if n.head.divisor is not None:
        logits = f"{bracketed(logits)} / {number(n.head.divisor)}"
    if n.head.softcap is not None:
        logits = rf"{number(n.head.softcap)} \cdot \mathrm{{tanh}}({logits} / {number(n.head.softcap)})"
    weight = "W_{h} = E" if n.head.tied else within("W_{h}", n.embedding.vocab, width)
    spare = says(f"of W's {n.embedding.rows} rows") if n.head.spare else ""
    dtype = says("in float32") if n.head.dtype == "float32" else ""
    return [*lines, listed(rf"\mathrm{{logits}} = {logits}", weight, spare, dtype)]
