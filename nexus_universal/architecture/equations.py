"""The equations of each part, numbers filled in, as lines of LaTeX. A part adds a function here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.indexers import BlockIndexer, PooledIndexer
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention, LowRank, SparseIndexer
from nexus_universal.architecture.notation import (
    bracketed,
    by_distance,
    call,
    joined,
    limited,
    listed,
    number,
    product,
    raised,
    says,
    set_to,
    times,
    within,
)
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.program import Linear
from nexus_universal.architecture.residual_convolution import DynamicConvolution
from nexus_universal.architecture.symbols import Names, gated, linear, output, pattern, seen, softmax


@singledispatch
def equations(part: Any, name: str, names: Names, width: int, model: int) -> list[str]:
    """Lines that define `name`(z) for a z of `width`, the result as wide as the `model`."""
    raise NotImplementedError(f"no equations are known for {type(part).__name__}")


@equations.register
def _(part: Attention, name: str, names: Names, width: int, model: int) -> list[str]:
    late = part.qk_norm is not None and part.qk_norm.when == "after_rope"
    wide = part.qk_norm is not None and part.qk_norm.over == "width"
    norm = part.qk_norm.norm if part.qk_norm else None

    read = {role: names(part.apart, f"z_{{{role}}}") if part.apart else "z" for role in "qkv"}

    def clipped(out: str) -> str:
        return out if part.clip is None else rf"\mathrm{{clip}}_{{{number(part.clip)}}}({out})"

    def convolved(out: str) -> str:
        if part.convolution is None:
            return out
        own = " + W_{c} z" if isinstance(part.convolution, DynamicConvolution) else ""
        return rf"(1 + \mathrm{{conv}}_{{{part.convolution.kernel}}}{own})({out})"

    def turned(role: str, factor: float | None = None) -> str:
        out = linear(role[0], read[role[0]], role in part.biases)
        if part.convolution and role != "query":
            out = convolved(out)
        if wide:
            return names.optional(part.rope, times(factor, clipped(names.optional(norm, out))))
        out = times(factor, clipped(out))
        if part.length_limit is not None:
            out = limited(product("w", out) if role == "query" else out, part.length_limit)
        if late:
            return names.optional(norm, names.optional(part.rope, out))
        return names.optional(part.rope, names.optional(norm, out))

    whole = says("normed over all heads") if wide else ""
    whole = says("each head's norm has its own weights") if part.qk_norm and part.qk_norm.own else whole
    query = turned("query", part.query_scale)
    if part.log_scale is not None:
        query = rf"\mathrm{{max}}(1, \mathrm{{log}}_{{{part.log_scale}}}(t + 1)) \cdot {query}"
    if part.temperature is not None:
        grown, next_to = number(part.temperature.growth), "t" if part.temperature.form == "log" else "(t + 1)"
        share = rf"{next_to} / {part.temperature.span}"
        steps = (
            rf"\mathrm{{max}}(1, {share})" if part.temperature.form == "log_above" else rf"1 + \lfloor {share} \rfloor"
        )
        factor = rf"1 + {grown} \, \mathrm{{ln}}({steps})"
        query = rf"({factor if part.temperature.form != 'power' else f'1 + {share}'})" + (
            rf" \cdot {query}" if part.temperature.form != "power" else rf"^{{{grown}}} \cdot {query}"
        )
    lines = [listed(within(f"q = {query}", part.heads, part.head_dim), whole)]
    if part.reuse:
        lines.append("k, v = " + says(f"those kept as {part.reuse!r}"))
    else:
        value = clipped(convolved(linear("k" if part.value_is_key else "v", read["v"], "value" in part.biases)))
        value = times(part.value_scale, names.optional(part.value_norm, value))
        kept = says(f"kept as {part.emit!r}") if part.emit else ""
        key, pair = f"k = {turned('key', part.key_scale)}", within(f"v = {value}", part.kv_heads, part.value_width)
        lines.append(listed(key if part.value_dim is None else within(key, part.kv_heads, part.head_dim), pair, kept))
    scale: float | str = part.softmax_scale(0)
    if isinstance(part.scale, ByLayer):
        scale = number(part.scale.value) + (r" / (\ell + 1)" if part.scale.rule == "divide" else r" (\ell + 1)")
    weights = softmax(scale, "q", softcap=part.softcap, sinks=part.sinks or part.projected_sinks, alibi=part.alibi)
    own = linear("s", "z").replace("W", "b_{sink} = W", 1) if part.projected_sinks else ""
    mixed = "o = " + weights + r"\, v"
    if part.differential:
        mixed = rf"(a, b) = {weights} \, (v_{{1}} \Vert v_{{2}})"
    where = _seen(part)
    if part.indexer:
        lines += (_pooled_indexer if isinstance(part.indexer, PooledIndexer) else _block_indexer)(part, names)
        where = r"j \in J_{t}"
    return [
        *lines,
        listed(mixed, where, _slopes(part), raised(part.dynamic_mask), by_distance(part.relative), own),
        *_difference(part, names),
        output(
            name,
            names.optional(part.inner_norm, gated("o", part.gate, "gate" in part.biases)),
            "output" in part.biases,
        ),
    ]


def _pooled_indexer(part: Attention, names: Names) -> list[str]:
    """Which blocks of keys are chosen."""
    assert isinstance(part.indexer, PooledIndexer)
    indexer, rate = part.indexer, part.indexer.rate
    query = names.optional(part.rope, names(indexer.norm, linear("iq", "z")))
    key = names.optional(part.rope, names(indexer.norm, rf"\mathrm{{mean}}_{{{rate}}}(W_{{ik}} z)"))
    score = rf"I_{{tb}} = {number(indexer.head_dim**-0.5)} \cdot \sum_{{h}} \mathrm{{relu}}(q'_{{th}} \cdot k'_{{b}})"
    best = says(f"the {indexer.keep} best blocks of {rate} seen keys by ") + "I_{tb}"
    return [
        listed(score, within(f"q' = {query}", indexer.heads, indexer.head_dim), f"k' = {key}"),
        r"J_{t} = " + best + says(", and the keys behind the last whole one"),
    ]


def _block_indexer(part: Attention, names: Names) -> list[str]:
    """Which blocks of keys are chosen."""
    assert isinstance(part.indexer, BlockIndexer)
    indexer = part.indexer
    query, key = (names.optional(part.rope, names(indexer.norm, linear(role, "z"))) for role in ("iq", "ik"))
    best = (
        says(f"the {indexer.keep} best blocks of {indexer.size} seen keys by ") + r"\max_{j \in b} q'_{t} \cdot k'_{j}"
    )
    first = says(f", the last {indexer.near} first") if indexer.near else ""
    each = says(f" for {part.heads // indexer.heads} heads each")
    return [
        listed(within(f"q' = {query}", indexer.heads, indexer.head_dim), f"k' = {key}"),
        r"J_{t} = " + best + first + each,
    ]


def _seen(part: Attention) -> str:
    """Which keys a query sees."""
    chunk = rf"\lfloor j / {part.window} \rfloor = \lfloor t / {part.window} \rfloor"
    return listed(chunk if part.chunked else seen(part.window, part.causal), pattern(part.sparsity))


def _difference(part: Attention, names: Names) -> list[str]:
    """What becomes of paired heads' mixtures."""
    if part.differential is None:
        return []
    normed = names(part.differential.norm, r"a - \lambda b")
    learned = r"\lambda = e^{q_{1} \cdot k_{1}} - e^{q_{2} \cdot k_{2}} + \lambda_{0}"
    return [listed(rf"o = (1 - \lambda_{{0}}) {normed}", learned, r"\lambda_{0} = 0.8 - 0.6 e^{-0.3 \ell }")]


def _slopes(part: Attention) -> str:
    """What ALiBi adds per key."""
    if part.alibi is None:
        return ""
    whole = 2 ** (part.heads.bit_length() - 1)
    beyond = says(f", every second one of {2 * whole} heads for h > {whole}") if whole < part.heads else ""
    rounded = says(" in bfloat16") if part.alibi.rounding == "bfloat16" else ""
    return rf"m_{{h}} = 2^{{-8h/{whole}}}" + beyond + rounded


@equations.register
def _(part: LatentAttention, name: str, names: Names, width: int, model: int) -> list[str]:
    lines, query = [], linear("q", "z")
    scales = {"query": None, "latent": None, part.query_scale_on: part.query_scale}
    if part.query_rank is not None:
        query = linear("uq", joined("c", "c'") if part.joint_gate else "c")
        down = names(part.latent_norm, linear("dq", "z", "query_down" in part.biases))
        lines.append(within(f"c = {times(scales['latent'], down)}", part.query_rank))
    latent = times(part.latent_scale, names(part.latent_norm, r"\ell "))
    dims = (part.heads, f"({part.nope_dim} + {part.rope_dim})")
    lines += [
        within(f"{joined('q_{n}', 'q_{r}')} = {times(scales['query'], query)}", *dims),
        listed(
            joined(r"\ell ", "r") + " = " + linear("d", "z", "latent_down" in part.biases),
            within(set_to(r"\ell", latent), part.latent_rank),
            within(set_to("r", names.optional(part.rope_norm, "r")) if part.rope_norm else "r", part.rope_dim),
        ),
        listed(
            "k = " + joined(r"W_{uk} \ell ", names.optional(part.rope, "r")),
            within(r"v = W_{uv} \ell", part.heads, part.value_dim),
        ),
    ]
    where = seen(part.window)
    if isinstance(part.indexer, SparseIndexer):
        lines += _indexer(part.indexer, names, key=names(part.indexer.key_norm, "W_{ik} z"), among=where)
        where = r"j \in J_{t}"
    elif part.indexer:
        where = r"j \in J_{t}" + says(f" kept as {part.indexer.reuse!r}")
    weights = softmax(part.softmax_scale, joined("q_{n}", names.optional(part.rope, "q_{r}")), sinks=part.sinks)
    return [
        *lines,
        listed(f"o = {weights}" + r"\, v", where),
        output(name, gated("o", part.gate), "output" in part.biases),
    ]


def _indexer(part: SparseIndexer, names: Names, *, key: str, among: str) -> list[str]:
    query = names.optional(part.rope, linear("iq", "c"))
    kept = says(f"kept as {part.emit!r}") if part.emit else ""
    scale = number((part.heads * part.head_dim) ** -0.5)
    score = rf"I_{{tj}} = {scale} \cdot \sum_{{h}} (W_{{iw}} z)_{{h}} \, \mathrm{{relu}}(q'_{{th}} \cdot k'_{{j}})"
    return [
        listed(score, within(f"q' = {query}", part.heads, part.head_dim), f"k' = {names.optional(part.rope, key)}"),
        listed(r"J_{t} = " + says(f"the {part.keep} best of ") + among + says(" by ") + "I_{tj}", kept),
    ]


@equations.register
def _(part: CompressedAttention, name: str, names: Names, width: int, model: int) -> list[str]:
    unit = rf"y / \sqrt{{\mathrm{{mean}}(y^2) + {number(part.latent_norm.eps)}}}"
    lines = [
        listed(
            within(f"c = {names(part.latent_norm, linear('dq', 'z'))}", part.query_rank),
            within("y = W_{uq} c", part.heads, part.head_dim),
            f"q = {names(part.rope, unit)}",
        ),
        within("k = v = " + names(part.rope, names(part.latent_norm, linear("kv", "z"))), part.head_dim),
    ]
    where = seen(part.window)
    if part.rate is not None:
        width_of_pool = 2 * part.rate if part.overlap else part.rate
        pooled = r"\sum_{i} \mathrm{softmax}_{i}(W_{cg} z_{i} + b_{i}) \odot W_{cv} z_{i}"
        reach = says(f"{width_of_pool} positions i, every {part.rate}")
        lines.append(listed("k_{w} = v_{w} = " + names(part.rope, names(part.latent_norm, pooled)), reach))
        chosen = rf"w < \lfloor (t + 1) / {part.rate}\rfloor"
        if part.indexer:
            key = names(part.indexer.key_norm, says("entries of its own"))
            lines += _indexer(part.indexer, names, key=key, among=chosen)
            chosen = r"w \in J_{t}"
        where = listed(where + says(" and ") + chosen)
    back = names(part.rope, "o").replace("(o)", "^{-1}(o)")
    blocks = rf"W_{{o}} \, \mathrm{{blocks}}_{{{part.output_groups}}}({back})"
    return [
        *lines,
        listed("o = " + softmax(part.head_dim**-0.5, "q", sinks=True) + r"\, v", where),
        within(f"{call(name, 'z')} = {blocks}", model) + says(f", each block of rank {part.output_rank}"),
    ]


@equations.register
def _(part: RoutedAttention, name: str, names: Names, width: int, model: int) -> list[str]:
    return [
        *_router(part.router, part.per_token, part.experts, names),
        listed(
            within("q_{i} = " + names.optional(part.rope, r"W_{q,i} z,\ i \in T"), part.kv_heads, part.head_dim),
            "k = " + names.optional(part.rope, linear("k", "z")),
            within("v = " + linear("v", "z"), part.kv_heads, part.head_dim),
        ),
        listed(r"o_{i} = " + softmax(part.head_dim**-0.5, "q_{i}") + r"\, v", seen(None)),
        f"{call(name, 'z')} = " + r"\sum_{i \in T} w_{i} W_{o,i} o_{i} + b",
    ]


def _capped(gate: str, up: str, part: FeedForward) -> Iterator[tuple[str, float]]:
    return zip((gate, up), part.softcaps or (), strict=True)


def _feed_forward(part: FeedForward, argument: str) -> str:
    up = linear("u", argument, "up" in part.biases)
    if not part.gated:
        inner = call(part.activation, up)
    else:
        gate = times(part.gate_scale, linear("g", argument, "gate" in part.biases))
        if part.sparsity is not None:
            gate = rf"\mathrm{{top}}_{{{number(1 - part.sparsity)}}}({gate})"
        if part.gate_limit is not None:
            gate, up = (
                rf"\mathrm{{min}}({gate}, {number(part.gate_limit)})",
                rf"\mathrm{{clip}}_{{{number(part.gate_limit)}}}({up})",
            )
        if part.up_shift is not None:
            up += f" + {number(part.up_shift)}"
        inner = product(call(part.activation, gate), bracketed(up))
        if part.softcaps:
            linear_gate, up = (
                times(cap, call("tanh", f"{role} / {number(cap)}")) for role, cap in _capped(gate, up, part)
            )
            inner = product(product(linear_gate, call("sigmoid", gate)), up)
    return times(part.output_scale, linear("d", f"({inner})", "down" in part.biases))


@equations.register
def _(part: FeedForward, name: str, names: Names, width: int, model: int) -> list[str]:
    return [listed(f"{call(name, 'z')} = {_feed_forward(part, 'z')}", within("W_{u}", part.width, width))]


def _router(part: Any, per_token: int, choices: int, names: Names, always: int = 0) -> list[str]:
    reads = names.optional(part.input_norm, "z")
    if part.input_scale:
        reads = product("d^{-1/2} a", reads)
    logits = linear("r", reads, part.bias)
    if part.softcap is not None:
        logits = times(part.softcap, rf"\mathrm{{tanh}}({logits} / {number(part.softcap)})")
    if part.score == "sparse_mixer":
        near = rf"(m - s) / \mathrm{{max}}(|s|, m) \le {number(part.tolerance)}"
        chosen = says(f"{per_token} of them one by one, each the best one m of those left")
        share = r"w = \mathrm{softmax}(s)_{m}" + says(" among those left with ") + near
        return [listed(within(f"s = {logits}", choices), chosen, share)]
    if part.score.endswith("_chosen"):
        late = part.score.partition("_")[0]
        bias = " + b" if part.selection_bias else ""
        chosen = rf"T = \mathrm{{top}}_{{{per_token}}}(s{bias})"
        weight = rf"\mathrm{{{late}}}(s_{{T}})"
        if part.normalise:
            weight += rf" / \sum \mathrm{{{late}}}(s_{{T}})"
        return [listed(within(f"s = {logits}", choices), chosen, f"w = {times(part.scale, weight)}")]
    score = {"sqrt_softplus": rf"\sqrt{{\mathrm{{softplus}}({logits})}}"}.get(part.score) or call(part.score, logits)
    best = rf"\mathrm{{top}}_{{{per_token}}}(s{' + b' if part.selection_bias else ''})"
    if part.by_token:
        best = says("the row of the token in a table")
    groups = says(f"within the best {part.groups.keep} of {part.groups.count} groups") if part.groups else ""
    weight = "s_{i}"
    if part.normalise:
        among = r"T \cup A" if always else "T"
        bottom = rf"\sum_{{j \in {among}}} s_{{j}}" + (f" + {number(part.sum_epsilon)}" if part.sum_epsilon else "")
        least = rf"\mathrm{{max}}({bottom}, {number(part.sum_floor)})" if part.sum_floor else f"({bottom})"
        weight = f"s_{{i}} / {least}"
    weight = times(part.scale, weight) + (r" \cdot a_{i}" if part.expert_scale else "")
    weight = rf"g \cdot {weight}" if part.learned_scale else weight
    steady = says(f"A the last {always}, never in T") if always else ""
    return [listed(within(f"s = {score}", choices + always), f"T = {best}", steady, groups, f"w_{{i}} = {weight}")]


@equations.register
def _(part: MixtureOfExperts, name: str, names: Names, width: int, model: int) -> list[str]:
    inner = part.latent or width
    expert = f"E_{{i}}(y) = {_feed_forward(part.expert, 'y')}"
    lines = _router(part.router, part.per_token, part.experts + part.identity_experts, names, part.always)
    lines.append(listed(expert, within("W_{u}", part.experts, part.expert.width, inner)))
    if part.identity_experts:
        lines[-1] += r",\quad E_{i}(y) = y" + says(f" for the last {part.identity_experts}")
    read = names.optional(part.expert_norm, "z")
    read = f"W_{{l}} {read}" if part.latent else read
    routed = r"\sum_{i \in T} " + (
        rf"w_{{i}} E_{{i}}({read})" if part.weighs == "outputs" else rf"E_{{i}}(w_{{i}} {read})"
    )
    if part.latent:
        routed = "W_{l'} " + routed
        lines[-1] = listed(lines[-1], within("W_{l}", part.latent, width))
    total = times(part.scale, routed)
    if part.always:
        total += r" + \sum_{i \in A} " + _feed_forward(part.expert, "z").replace("(", r"(w_{i} \cdot ", 1)
    if part.shared:
        gate = call("sigmoid", "w z") + r" \cdot " if part.shared_gate else ""
        total += f" + {gate}{call('shared', 'z')}"
        lines.append(
            listed(
                f"{call('shared', 'z')} = {_feed_forward(part.shared, 'z')}", within("W_{u}", part.shared.width, width)
            )
        )
    if part.divisor is not None:
        total = f"({total}) / {number(part.divisor)}"
    return [*lines, f"{call(name, 'z')} = {total}" + (" + b" if part.bias else "")]


@equations.register
def _(part: LowRank, name: str, names: Names, width: int, model: int) -> list[str]:
    return [listed(f"{call(name, 'z')} = B A z", within("A", part.rank, width))]


@equations.register
def _(part: PerLayerInput, name: str, names: Names, width: int, model: int) -> list[str]:
    inner = product(call(part.activation, linear("g", "z")), r"p_{\ell }")
    return [listed(f"{call(name, 'z')} = {linear('u', f'({inner})')}", within(r"p_{\ell }", part.width))]


@equations.register
def _(part: Linear, name: str, names: Names, width: int, model: int) -> list[str]:
    return [within(f"{call(name, 'z')} = {linear('', 'z', part.bias)}".replace("_{}", ""), model)]
