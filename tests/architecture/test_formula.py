"""The formula of an n: complete, in both notations, with its own numbers, every layer named once."""

from __future__ import annotations

import re

import pytest
from hard_types import WORKS
from hypothesis import given
from hypothesis import strategies as st
from small import NORM, attention, experts, feed_forward, layer, small

from nexus_universal.architecture.ends import Beside, Embedding, Head, HeadTransform, LearnedPositions, Narrow
from nexus_universal.architecture.equations import equations
from nexus_universal.architecture.feed_forward import Router
from nexus_universal.architecture.mixers import LatentAttention, OutputGate, QueryKeyNorm, ReusedIndices, SparseIndexer
from nexus_universal.architecture.notation import number, to_unicode
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import PARTS, ByLayer
from nexus_universal.architecture.position import Alibi, Norm, Rope, YarnScaling
from nexus_universal.architecture.program import Branch, Program, Read, Step, Term, Write
from nexus_universal.architecture.recurrences import GatedDeltaRule, StateSpace

works = pytest.mark.parametrize("name", WORKS)


def text(n: ArchitectureParameter) -> str:
    return str(n.formula())


def of(**fields: object) -> str:
    return text(small(layer(attention(**fields))))


def test_a_small_model_in_full() -> None:
    assert text(small()) == "\n".join(
        [
            "Embedding",
            "  x = e = Eₜₒₖₑₙ,  E ∈ ℝ^(97 × 24)",
            "Layers 0-1 (2 of 2)",
            "  x ← x + attention(RMS(x))",
            "  q = R(W_q z) ∈ ℝ^(4 × 8)",
            "  k = R(Wₖ z),  v = Wᵥ z ∈ ℝ^(2 × 8)",
            "  o = softmax(0.353553 · q kᵀ) v,  j ≤ t",
            "  attention(z) = Wₒ o",
            "  x ← x + feed_forward(RMS(x))",
            "  feed_forward(z) = W_d (silu(W_g z) ⊙ Wᵤ z),  Wᵤ ∈ ℝ^(48 × 24)",
            "Head",
            "  logits = Wₕ RMS(x),  Wₕ ∈ ℝ^(97 × 24)",
            "where",
            "  RMS(x) = w ⊙ x / √(mean(x²) + 10⁻⁶)",
            "  R(x) = x turned by t θ^(-2i/d),  θ = 10000,  pairs (i, i + d/2)",
        ]
    )


def test_latex_has_the_same_lines() -> None:
    formula = small().formula()
    rows = formula.latex.removeprefix("\\begin{aligned}\n").removesuffix("\n\\end{aligned}").split(" \\\\\n")
    assert len(rows) == len(formula.unicode.splitlines())
    assert r"&\textbf{Layers 0-1 (2 of 2)}" in rows
    assert r"&\quad x \leftarrow x + \mathrm{feed\_forward}(\mathrm{RMS}(x))" in rows
    assert r"&\quad o = \mathrm{softmax}(0.353553 \cdot q k^{\top})\, v,\quad j \le t" in rows


@works
def test_both_notations_are_clean(name: str) -> None:
    formula = WORKS[name]().formula()
    assert not set("\\{}$&") & set(re.sub(r"j ∈ \{[\d, ]+\}", "", formula.unicode))
    assert formula.latex.count("{") == formula.latex.count("}")
    assert not re.search(r"[^\x00-\x7f]", re.sub(r"\\text\{[^}]*\}", "", formula.latex))
    assert not re.search(r"(?<!\\)_[A-Za-z]{2}", re.sub(r"\\text\{[^}]*\}", "", formula.latex))
    for line in formula.unicode.splitlines():
        assert line.count("(") + line.count("[") == line.count(")") + line.count("]"), line
        assert line == line.rstrip()


@works
def test_every_layer_belongs_to_one_group(name: str) -> None:
    n = WORKS[name]()
    named: list[int] = []
    for title, _ in n.formula().groups:
        found = re.fullmatch(r"Layers? ([\d,-]+)(?: \((\d+) of (\d+)\))?", title)
        if not found:
            continue
        indices = []
        for piece in found[1].split(","):
            first, _, last = piece.partition("-")
            indices += range(int(first), int(last or first) + 1)
        assert found[2] is None or (int(found[2]), int(found[3])) == (len(indices), n.num_layers)
        named += indices
    assert sorted(named) == list(range(n.num_layers))


@works
def test_every_branch_is_defined(name: str) -> None:
    n = WORKS[name]()
    written = text(n)
    for program in n.layers:
        for path, branch in program.all_branches():
            assert f"{branch.name}(z)" in written, path


def test_what_attention_can_be() -> None:
    norm = QueryKeyNorm(norm=NORM)
    assert "q = R(RMS(W_q z))" in of(qk_norm=norm)
    assert "q = RMS(R(W_q z))" in of(qk_norm=QueryKeyNorm(norm=NORM, when="after_rope"))
    assert "normed over all heads" in of(qk_norm=QueryKeyNorm(norm=NORM, over="width"))
    assert "q = W_q z ∈" in of(rope=None)
    assert "q = R(W_q z + b_q)" in of(biases=("query",))
    assert "attention(z) = Wₒ o + bₒ" in of(biases=("output",))
    assert "t - 9 < j ≤ t" in of(window=9)
    assert "all j" in of(causal=False)
    assert "softmax(50 · tanh(0.353553 · q kᵀ / 50)) v" in of(softcap=50.0, kernel="eager")
    assert "softmax(0.353553 · q kᵀ | bₛᵢₙₖ) v" in of(sinks=True, kernel="eager")
    assert "softmax(0.353553 · q kᵀ + mₕ j) v,  j ≤ t,  mₕ = 2^(-8h/4)" in of(alibi=Alibi())
    scaled = of(alibi=Alibi(scaled=True, rounding="bfloat16"), heads=6, kv_heads=2)
    assert "softmax(0.353553 · (q kᵀ + mₕ j)) v" in scaled
    assert "mₕ = 2^(-8h/4), every second one of 8 heads for h > 4 in bfloat16" in scaled
    assert "softmax(q kᵀ) v" in of(scale=1.0)
    assert "softmax(0.5 / (ℓ + 1) · q kᵀ) v" in of(scale=ByLayer(rule="divide", value=0.5))
    assert "attention(z) = Wₒ (o ⊙ softplus(W_g z))" in of(gate=OutputGate(activation="softplus"))
    assert "k = R(2 · Wₖ z)" in of(key_scale=2.0)


def test_what_latent_attention_can_be() -> None:
    part = LatentAttention(
        heads=4,
        query_rank=None,
        latent_rank=6,
        nope_dim=5,
        rope_dim=2,
        value_dim=3,
        latent_norm=NORM,
        gate=OutputGate(per="head"),
        biases=("latent_down", "output"),
    )
    written = text(small(layer(part)))
    assert "[qₙ | qᵣ] = W_q z ∈ ℝ^(4 × (5 + 2))" in written
    assert "[ℓ | r] = W_d z + b_d,  ℓ ← RMS(ℓ) ∈ ℝ⁶,  r ∈ ℝ²" in written
    assert "attention(z) = Wₒ (o ⊙ σ(W_g z)) + bₒ" in written
    lines = equations(
        LatentAttention(**{**{f: getattr(part, f) for f in part.__slots__}, "indexer": ReusedIndices(reuse="top")}),
        "a",
        _names(),
        24,
        24,
    )
    assert any("kept as 'top'" in line for line in lines)


def _names() -> object:
    from nexus_universal.architecture.symbols import Names

    return Names()


def test_what_the_delta_rule_can_be() -> None:
    part = GatedDeltaRule(key_heads=2, value_heads=4, key_dim=4, value_dim=6, convolution=3, norm=NORM, beta_range=2.0)
    written = text(small(layer(part)))
    assert "[q | k | v] = silu(conv₃(W z)),  q, k ∈ ℝ^(2 × 4),  v ∈ ℝ^(4 × 6)" in written
    assert "β = 2 · σ(W_b z),  g = -e^A softplus(Wₐ z + b) per head" in written
    assert "S ← S + k (β (v - kᵀ S))ᵀ,  o = 0.5 · Sᵀ q" in written


def test_what_a_state_space_can_be() -> None:
    def state(**fields: object) -> str:
        plain = {"heads": 4, "head_dim": 8, "state_dim": 6, "groups": 2, "convolution": 4, "norm": NORM}
        return text(small(layer(StateSpace(**{**plain, **fields}))))

    written = state()
    assert "[g | s | B | C | δ] = Wᵢ z\n" in written
    assert "[s | B | C] ← silu(conv₄([s | B | C])),  s ∈ ℝ^(4 × 8),  B, C ∈ ℝ^(2 × 6)" in written
    assert "Δ = softplus(δ + b)\n" in written
    assert "attention(z) = Wₒ (RMS(y ⊙ silu(g)))\n" in written
    assert "attention(z) = Wₒ (RMS(y) ⊙ silu(g))\n" in state(norm_first=True)
    assert "attention(z) = Wₒ (y ⊙ silu(g)) + bₒ\n" in state(norm=None, biases=("output",))
    assert "= Wᵢ z + bᵢ" in state(biases=("input",))
    assert "within [0.1, 2]" in state(time_step=(0.1, 2.0))


def test_what_a_query_latent_can_be() -> None:
    part = LatentAttention(
        heads=4,
        query_rank=10,
        latent_rank=6,
        nope_dim=5,
        rope_dim=2,
        value_dim=3,
        latent_norm=NORM,
        biases=("query_down",),
        indexer=SparseIndexer(heads=2, head_dim=8, keep=3, key_norm=NORM, emit="best"),
    )
    written = text(small(layer(part)))
    assert "c = RMS(W_dq z + b_dq) ∈ ℝ¹⁰" in written
    assert "Iₜⱼ = 0.25 · Σₕ" in written
    assert "Jₜ = the 3 best of j ≤ t by Iₜⱼ,  kept as 'best'" in written


def test_what_a_network_can_be() -> None:
    def network(**fields: object) -> str:
        return text(small(layer(network=feed_forward(**fields))))

    assert "= W_d (gelu_new(Wᵤ z)),  Wᵤ" in network(gated=False, activation="gelu_new")
    assert "= W_d (silu(W_g z + b_g) ⊙ (Wᵤ z + bᵤ)) + b_d" in network(biases=("gate", "up", "down"))
    assert "W_d (σ(W_g z) ⊙ Wᵤ z)" in network(activation="sigmoid")


def test_what_experts_can_be() -> None:
    def mixture(**fields: object) -> str:
        return text(small(layer(network=experts(**fields))))

    plain = mixture()
    assert "s = softmax(Wᵣ z) ∈ ℝ⁶,  T = top₂(s),  wᵢ = sᵢ / (Σ_(j ∈ T) sⱼ)" in plain
    assert "Eᵢ(y) = W_d (silu(W_g y) ⊙ Wᵤ y),  Wᵤ ∈ ℝ^(6 × 12 × 24)" in plain
    assert "experts" not in plain.replace("feed_forward", "")
    assert "wᵢ = sᵢ\n" in mixture(router=Router(score="sigmoid", normalise=False))
    biased = mixture(router=Router(score="softmax_chosen", normalise=False, bias=True))
    assert "s = Wᵣ z + bᵣ ∈ ℝ⁶,  T = top₂(s),  w = softmax(s_T)" in biased
    clamped = mixture(expert=feed_forward(width=12, gate_limit=7.0, up_shift=1.0, biases=("gate", "up", "down")))
    assert "W_d (silu(min(W_g y + b_g, 7)) ⊙ (clip₇(Wᵤ y + bᵤ) + 1)) + b_d" in clamped
    assert "+ σ(w z) · shared(z)" in mixture(shared=feed_forward(width=5), shared_gate=True)


def test_where_tokens_enter_and_logits_leave() -> None:
    learned = Embedding(vocab=97, width=24, scale=2.5, positions=LearnedPositions(count=34, offset=2), norm=NORM)
    written = text(small(embedding=learned, head=Head(tied=True, bias=True, scale=0.25, softcap=30.0)))
    assert "x = e = RMS(2.5 · Eₜₒₖₑₙ + P_(t + 2)),  E ∈ ℝ^(97 × 24)" in written
    assert "P ∈ ℝ^(34 × 24)" in written
    assert "logits = 30 · tanh(0.25 · (Wₕ RMS(x) + bₕ) / 30),  Wₕ = E" in written
    assert "logits = Wₕ RMS(x) / 8," in text(small(head=Head(tied=False, divisor=8.0)))
    assert "logits = Wₕ (RMS(x) / 8)," in text(small(head=Head(tied=False, input_divisor=8.0)))
    rows = LearnedPositions(count=34, offset=2, uncounted=1)
    narrow = Embedding(vocab=97, width=24, types=2, tasks=3, narrow=Narrow(width=8), positions=rows, norm=NORM)
    written = text(small(embedding=narrow))
    assert "x = e = Wₑ RMS(Eₜₒₖₑₙ + T₀ + P_(t + 2) + K₀) + bₑ,  E ∈ ℝ^(97 × 8)" in written
    assert "T ∈ ℝ^(2 × 8)\n  K ∈ ℝ^(3 × 8)\n  P ∈ ℝ^(34 × 8),  t counts no token 1" in written
    beside = Embedding(vocab=97, width=24, beside=(Beside(name="shape", count=5, width=6),))
    assert "x = e = Wⱼ [Eₜₒₖₑₙ | F^shape₀] + bⱼ," in text(small(embedding=beside))
    transformed = Head(tied=False, transform=HeadTransform(width=8, activation="gelu", norm=NORM))
    assert "logits = Wₕ RMS(gelu(Wₐ RMS(x) + bₐ)),  Wₕ ∈ ℝ^(97 × 8)" in text(small(head=transformed))


def test_what_the_symbols_mean() -> None:
    ones = Norm(kind="rms", eps=1e-5, scale="one_plus_weight")
    layered = Norm(kind="layer", eps=1e-12, bias=True, rounding="native")
    yarn = Rope(theta=5e5, fraction=0.5, pairing="interleaved", scaling=YarnScaling(factor=4.0, original_context=512))
    branch = Branch(name="attention", part=attention(rope=yarn), input_norm=ones, output_norm=layered)
    step = Step(branches=(branch,), writes=(Write(terms=(Term(source="x"), Term(source="attention"))),), norm=NORM)
    written = text(small(Program(steps=(step,))))
    assert "x ← x + LN(attention(RMS₂(RMS₁(x))))" in written
    assert "RMS₁(x) = w ⊙ x / √(mean(x²) + 10⁻⁶)" in written
    assert "RMS₂(x) = (1 + w) ⊙ x / √(mean(x²) + 10⁻⁵)" in written
    assert "LN(x) = w ⊙ (x - mean(x)) / √(var(x) + 10⁻¹²) + b" in written
    assert "the first 0.5 of d,  θ = 500000,  pairs (2i, 2i + 1),  yarn scaling by 4 from 512" in written


def test_how_registers_are_read_and_written() -> None:
    branch = Branch(name="a", part=feed_forward(), input_scale=0.5)
    write = Write(
        terms=(Term(source="u"), Term(source="v", scale=2.0), Term(source="a")), scale=3.0, norm=NORM, divisor=4.0
    )
    step = Step(branches=(branch,), writes=(write,), read=Read(registers=("x", "e"), scale=0.25), norm=NORM)
    written = text(small(Program(steps=(step,))))
    assert "u = 0.25 · (x + e) ∈ ℝ²⁴\n  v = RMS(u)\n  x ← 3 · RMS((u + 2 · v + a(0.5 · v)) / 4)" in written


def test_every_part_that_a_branch_can_hold_has_equations() -> None:
    written = {cls.__name__ for cls in equations.registry if cls.__name__ in PARTS}
    branch = Branch.__annotations__["part"].replace("(", "").replace(")", "").split("|")
    assert {name.strip() for name in branch} - {"Program"} <= written


@pytest.mark.parametrize(
    ("value", "latex"),
    [(1e-6, "10^{-6}"), (1.5625e-7, r"1.5625 \cdot 10^{-7}"), (0.5, "0.5"), (3, "3"), (float("inf"), r"\infty")],
)
def test_numbers(value: float, latex: str) -> None:
    assert number(value) == latex


@pytest.mark.parametrize(
    ("latex", "plain"),
    [
        ("x_{1}", "x₁"),
        ("x_1 y", "x₁ y"),
        ("W_{q} z", "W_q z"),
        (r"W_{\ell }", "W_ℓ"),
        ("e^{-s}", "e^(-s)"),
        (r"\sqrt{2}", "√2"),
        (r"\sqrt{x + 1}", "√(x + 1)"),
        (r"\mathrm{feed\_forward}(x)", "feed_forward(x)"),
        (r"j \in \{1, 2\}", "j ∈ {1, 2}"),
        (r"\text{a few words} x", "a few words x"),
        (r"a,\quad b", "a,  b"),
        (r"\unknown x", "unknown x"),
    ],
)
def test_unicode(latex: str, plain: str) -> None:
    assert to_unicode(latex) == plain


@given(st.text(alphabet="abz019+-=()[], ", max_size=20))
def test_text_without_commands_stays_as_it_is(written: str) -> None:
    assert to_unicode(written).replace(" ", "") == written.replace(" ", "")
