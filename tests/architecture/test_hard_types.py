"""The twelve hard types as data: valid, exact in JSON, told apart, printed with what makes each of them hard."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from hard_types import WORKS
from hard_wiring import hrm_text

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import PARTS
from nexus_universal.architecture.paths import fields_of, leaves
from nexus_universal.architecture.validate import problems

works = pytest.mark.parametrize("name", WORKS)


@works
def test_nothing_is_wrong_with_it(name: str) -> None:
    assert list(problems(WORKS[name]())) == []


@works
def test_json_gives_it_back_exactly(name: str) -> None:
    n = WORKS[name]()
    again = ArchitectureParameter.from_json(n.to_json())
    assert again == n
    assert again.hash == n.hash
    assert again.to_json() == n.to_json()


SIGNATURES = {
    "falcon_h1": "3 × [state space 6×8×10 + attention 4/2×6 + ffn 40]",
    "longcat_flash": "experts 3/5×14+2 identity + ffn 36 + latent attention 4×10 rank 10",
    "zamba2": "shared(attention 4/4×12 + ffn 38) + linear + state space 6×8×10",
    "gemma3n_text": "4 × [block(attention 4/2×8 w5 kv of 'sliding' + low rank 7 + ffn 30) + per-layer input 6]",
    "gemma4_text": "[attention 4/2×12 kv of 'full' + ffn 52 + per-layer input 6]",
    "gemma4_text_experts": "attention 4/1×12 + ffn 26 + experts 2/5×14]",
    "deepseek_v32": "3 × [latent attention 4×10 rank 10 top 7 + experts 3/8×16+shared]",
    "deepseek_v4": "2 × [compressed attention 4×16 w9 /16 + experts 2/6×18+shared]",
    "kimi_linear": "delta rule 3/3×8 channel decay",
    "minimax": "2 × [lightning attention 4×6 + experts 2/5×30 | attention 4/2×6 + experts 2/5×30]",
    "jetmoe": "3 × [routed attention 2/5 × 3×8 + experts 2/5×30]",
    "hrm_text": "16 × [attention 3/3×8 + ffn 34]",
    "nemotron_h": "| ffn 34 | state space 6×8×10 | attention 4/2×7 nope | experts 3/8×16+shared |",
}


@works
def test_its_signature_is_one_line_that_shows_its_layers(name: str) -> None:
    n = WORKS[name]()
    assert SIGNATURES[name] in n.signature
    assert n.signature.endswith(f"#{n.hash}")
    assert "\n" not in n.signature


FORMULAS = {
    "falcon_h1": (
        "x ← 0.2357 · mamba(1.25 · v) + 0.9375 · attention(0.875 · v) + x",
        "k = R(0.390625 · Wₖ z)",
        "[g | s | B | C | δ] = Wᵢ z,  scaled by (0.35, 0.25, 0.36, 0.5, 0.37)",
        "feed_forward(z) = 0.585938 · W_d (silu(0.883883 · W_g z) ⊙ Wᵤ z)",
        "mamba(z) = Wₒ (RMS₂(y ⊙ silu(g))),  normed in 2 groups",
        "logits = 0.0390625 · Wₕ RMS₁(x)",
    ),
    "longcat_flash": (
        "m ← experts(v)",
        "Eᵢ(y) = W_d (silu(W_g y) ⊙ Wᵤ y),  Wᵤ ∈ ℝ^(5 × 14 × 24),  Eᵢ(y) = y for the last 2",
        "experts(z) = Σ_(i ∈ T) wᵢ Eᵢ(z)\n",
        "x ← x + feed_forward_1(RMS₁(x)) + m",
        "Eᵢ(y) = y for the last 2",
        "ℓ ← 1.54919 · RMS₂(ℓ)",
        "[qₙ | qᵣ] = 1.41421 · W_uq c",
        "pairs (2i, 2i + 1) to (i, i + d/2)",
    ),
    "zamba2": (
        "u = [x | e] ∈ ℝ⁴⁸",
        "t ← shared(u)",
        "  x ← attention(RMS(x))",
        "u = x + t ∈ ℝ²⁴",
        "x ← x + mamba(RMS(u))",
        "within [0.001, inf]",
        "weights of shared 'block_0' in layers 1,6",
        "attention.query of rank 5",
        "Wₕ = E",
    ),
    "gemma3n_text": (
        "p_ℓ = (RMS₁(0.204124 · Wₚ e) + 2.44949 · E'ₜₒₖₑₙ) / √2 ∈ ℝ⁶",
        "x₀ = e,  xⱼ = rescaledₑ(Wⱼ e),  j = 1, …, 3",
        "x = mean(x₀, rescaled_x₀(W'ⱼ xⱼ))",
        "pⱼ = xⱼ + Σₖ Pⱼₖ xₖ",
        "xⱼ ← pⱼ + (1 + Cⱼ)(y - p₀)",
        "l ← v + RMS₁(laurel(v))",
        "x ← (x + RMS₁(attention(v)) + l) / 1.41421",
        "top_(0.05)(W_g z)",
        "xⱼ ← xⱼ + y,  j ∈ {1, 2, 3}",
        "u = w ⊙ x₀",
        "k, v = those kept as 'sliding'",
        "E' ∈ ℝ^(89 × 10 × 6)",
        "logits = 30 · tanh(Wₕ RMS₁(x) / 30)",
    ),
    "gemma4_text": (
        "x ← (x + RMS₁(per_layer(x))) · λ_ℓ",
        "k, v = those kept as 'full'",
        "v = RMS₂(Wᵥ z)",
        "proportional scaling by 1",
        "t - 5 < j ≤ t",
    ),
    "gemma4_text_experts": (
        "f ← RMS₁(RMS₁(feed_forward(RMS₁(x))) + RMS₁(experts(x)))",
        "x ← (x + f) · λ_ℓ",
        "s = softmax(Wᵣ d^(-1/2) a ⊙ RMS₂(z)) ∈ ℝ⁵",
        "Eᵢ(RMS₁(z))",
        "v = RMS₂(Wₖ z) ∈ ℝ^(1 × 12)",
        "· aᵢ",
    ),
    "deepseek_v32": (
        "c = RMS(W_dq z) ∈ ℝ¹²",
        "Iₜⱼ = 0.154303 · Σₕ (W_iw z)ₕ relu(q'ₜₕ · k'ⱼ),  q' = R₂(W_iq c) ∈ ℝ^(3 × 14)",
        "k' = R₂(LN(Wᵢₖ z))",
        "Jₜ = the 7 best of j ≤ t by Iₜⱼ",
        "within the best 2 of 4 groups",
        "yarn scaling by 40 from 64",
        "o = softmax(0.592565 ·",
    ),
    "deepseek_v4": (
        "x₁ = … = x₄ = e",
        "x = Σⱼ aⱼ xⱼ,  a = σ(s Wₐ RMS([x₁ | … | x₄]) + b) + 10⁻⁶",
        "o = softmax(0.25 · q kᵀ | bₛᵢₙₖ) v,  t - 9 < j ≤ t and w ∈ Jₜ",
        "t - 9 < j ≤ t and w < ⌊ (t + 1) / 16⌋",
        "C = sinkhorn₂₀(softmax(s₂ Γ + B) + 10⁻⁶)",
        "xⱼ ← cⱼ y + Σᵢ Cᵢⱼ xᵢ",
        "T = the row of the token in a table",
        "k = v = R₁(RMS(Wₖᵥ z)) ∈ ℝ¹⁶",
        "8 positions i, every 4",
        "16 positions i, every 16",
        "blocks₂(R₁⁻¹(o))",
        "clip₁₀(Wᵤ y)",
        "the last 0.25 of d",
        "experts(z) as in layers 0-1",
    ),
    "kimi_linear": (
        "g = -e^A softplus(Wₐ z + b) per key channel,  Wₐ, W_g of rank 8",
        "delta(z) = Wₒ (RMS₂(o) ⊙ σ(W_g z))",
        "k = [Wᵤₖ ℓ | r]",
    ),
    "minimax": (
        "v = RMS₁(x)",
        "x ← 3.25 · v + 1.2 · lightning(v)",
        "x ← 3.5 · v + 1.1 · attention(v)",
        "sₕ = 2^(-8(h + 1)/4) (1 - ℓ / 3 + 10⁻⁵)",
        "lightning(z) = Wₒ (σ(W_g z) ⊙ RMS₂(o))",
    ),
    "jetmoe": (
        "w = softmax(s_T)",
        "qᵢ = R(W_(q,i) z, i ∈ T) ∈ ℝ^(3 × 8)",
        "attention(z) = Σ_(i ∈ T) wᵢ W_(o,i) oᵢ + b",
    ),
    "hrm_text": (
        "low = learned",
        "u = low + x",
        "low ← u + attention(RMS(u))",
        "low ← RMS(low + feed_forward(RMS(low)))",
        "all weights 'x_1' in layers 7,15",
        "attention(z) = Wₒ (o ⊙ σ(W_g z))",
        "logits = Wₕ x",
    ),
    "nemotron_h": (
        "x ← x + experts(RMS₁(x))",
        "experts(z) = W_(l') Σ_(i ∈ T) wᵢ Eᵢ(Wₗ z) + shared(z)",
        "s = σ(Wᵣ z) ∈ ℝ⁸,  T = top₃(s + b),  within the best 1 of 2 groups,  wᵢ = 2.5 · sᵢ / (Σ_(j ∈ T) sⱼ + 10⁻²⁰)",
        "Eᵢ(y) = W_d (relu_squared(Wᵤ y)),  Wᵤ ∈ ℝ^(8 × 16 × 11),  Wₗ ∈ ℝ^(11 × 24)",
        "in float32",
    ),
}


@works
def test_its_formula_says_what_makes_it_hard(name: str) -> None:
    text = str(WORKS[name]().formula())
    for line in FORMULAS[name]:
        assert line in text, line


@pytest.mark.parametrize(("left", "right"), [*itertools.combinations(WORKS, 2)])
def test_a_diff_between_any_two_names_fields_of_both(left: str, right: str) -> None:
    changes = WORKS[left]().diff(WORKS[right]())
    assert changes
    assert all(str(change) for change in changes)
    assert len({(change.path, str(change.left), str(change.right)) for change in changes}) == len(changes)


@works
def test_no_part_differs_from_itself(name: str) -> None:
    assert WORKS[name]().diff(WORKS[name]()) == []


@works
def test_many_layers_are_written_in_few_lines(name: str) -> None:
    n = WORKS[name]()
    deep = dataclasses.replace(n, layers=n.layers * 8)
    assert len(json.dumps(json.loads(deep.to_json())["layers"])) <= len(n.to_json(indent=None)) + 60
    assert ArchitectureParameter.from_json(deep.to_json()) == deep
    assert deep.signature.count("[") <= 2 * n.signature.count("[")


def test_loops_in_loops_are_written_in_loops() -> None:
    turns = json.loads(hrm_text(depth=6).to_json())["layers"]
    assert len(turns) == 1
    assert turns[0]["repeat"] == 2
    assert turns[0]["pattern"][0]["repeat"] == 3
    assert len(turns[0]["pattern"][0]["pattern"]) == 6
    assert len(turns[0]["pattern"]) == 1 + 6


def test_the_flat_view_sees_into_nested_programs() -> None:
    gemma = WORKS["gemma3n_text"]()
    assert (gemma.num_heads, gemma.num_kv_heads, gemma.head_dim, gemma.rope_base) == (4, 2, 8, 1e4)
    assert gemma.activation_fn == "gelu_tanh"
    assert WORKS["zamba2"]().num_heads == 4
    assert WORKS["hrm_text"]().norm_type == "rms"
    assert WORKS["jetmoe"]().num_heads == 6
    assert WORKS["kimi_linear"]().pos_embedding_type == "none"


def test_the_works_use_every_part_that_only_they_need() -> None:
    used = {value for work in WORKS.values() for path, value in leaves(work()) if path.endswith("is")}
    used |= {type(part).__name__ for work in WORKS.values() for part in _parts(work())}
    waiting = {"LinearScaling", "DynamicScaling", "Llama3Scaling", "LongRopeScaling", "LearnedPositions", "ByLayer"}
    waiting |= {"Alibi", "Bands", "SinusoidPositions", "SteppedScaling", "ShortConvolution", "ChannelStateSpace"}
    waiting |= {"Differential", "QueryTemperature", "GatedLinearRecurrence", "Beside", "Narrow", "HeadTransform"}
    waiting |= {"DynamicMask", "GatedStreams", "ConvolvedAttention", "ChainedExperts", "ChannelGatedStreams"}
    waiting |= {"DecayedAverage", "ShiftedFeedForward", "MatrixMemory", "HashedNgrams", "PooledIndexer", "StreamGate"}
    waiting |= {"BlockIndexer", "BlockSparse", "Strided", "TopK", "Member", "Fusion", "Bridge", "CrossAttention"}
    waiting |= {"Similarity"}
    waiting |= {"RelativeBias", "ResidualConvolution", "DynamicConvolution"}
    assert set(PARTS) - used == waiting | {"ReusedIndices"}


def _parts(value: object) -> list[object]:
    if isinstance(value, tuple):
        return [part for item in value for part in _parts(item)]
    if type(value).__name__ not in PARTS:
        return []
    return [value, *(part for item in fields_of(value).values() for part in _parts(item))]  # type: ignore[arg-type]
