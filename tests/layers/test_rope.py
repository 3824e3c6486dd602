"""Rotary embedding: frequencies and tables against transformers', the rotation against complex numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import Cohere2Config, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.cohere2 import modeling_cohere2
from transformers.models.glm4_moe_lite import modeling_glm4_moe_lite
from transformers.models.llama import modeling_llama
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.nanochat import modeling_nanochat

from nexus_universal import ArchitectureParameter, UniversalRoPE, UniversalTransformer
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.position import DynamicScaling, LongRopeScaling, Rope
from nexus_universal.layers.rope import frequencies
from tests.helpers import pair, raw, same

CONTEXT = 64


@st.composite
def rotations(draw: st.DrawFn, *, kinds: tuple[str, ...] = tuple(ROPE_INIT_FUNCTIONS)) -> tuple[int, dict[str, Any]]:
    """(head width, rope_parameters) with every option of a scaling drawn or left out."""
    kind = draw(st.sampled_from(kinds))
    head_dim = draw(st.sampled_from([8, 12, 16, 64]))
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": draw(st.sampled_from([10.0, 500.0, 10000.0, 1e6]))}

    def some(**options: st.SearchStrategy[Any]) -> None:
        rope.update(draw(st.fixed_dictionaries({}, optional=options)))

    ratios = st.sampled_from([1.0, 1.7, 4.0, 32.0])
    if kind == "proportional":
        some(factor=ratios, partial_rotary_factor=st.sampled_from([0.25, 0.5, 1.0]))
    elif kind != "default":
        rope["factor"] = draw(ratios)
    if kind in ("yarn", "llama3", "longrope"):
        rope["original_max_position_embeddings"] = draw(st.sampled_from([8, 16, 60, 8192]))
    if kind == "yarn":
        factors = st.sampled_from([0.5, 1.0, 1.3])
        some(attention_factor=factors, mscale=factors, mscale_all_dim=factors, truncate=st.booleans())
        some(beta_fast=st.sampled_from([32, 16.0, 4]), beta_slow=st.sampled_from([1, 2.5]))
    if kind == "llama3":
        rope["low_freq_factor"] = draw(st.sampled_from([1.0, 1.5]))
        rope["high_freq_factor"] = draw(st.sampled_from([2.0, 4.0]))
    if kind == "longrope":
        numbers = st.lists(st.sampled_from([1.0, 1.25, 3.7]), min_size=head_dim // 2, max_size=head_dim // 2)
        rope["short_factor"], rope["long_factor"] = draw(numbers), draw(numbers)
        some(attention_factor=st.sampled_from([0.8, 1.2]))
    return head_dim, rope


def both(head_dim: int, rope: dict[str, Any]) -> tuple[LlamaConfig, UniversalRoPE]:
    """The reference's config and our module of the same rotation."""
    shape = {
        "hidden_size": 2 * head_dim,
        "num_attention_heads": 2,
        "head_dim": head_dim,
        "max_position_embeddings": CONTEXT,
    }
    settled = LlamaConfig(**shape, rope_parameters=dict(rope))
    part = next(ArchitectureParameter.from_huggingface(settled).layers[0].branches()).part.rope
    return settled, UniversalRoPE(part, head_dim=head_dim)


@settings(max_examples=150)
@given(drawn=rotations())
def test_frequencies_are_the_references(drawn: tuple[int, dict[str, Any]]) -> None:
    settled, ours = both(*drawn)
    expected, factor = ROPE_INIT_FUNCTIONS[drawn[1]["rope_type"]](settled)
    assert same(frequencies(ours.part.scaling, ours.part, drawn[0]), expected)
    assert ours.table_factor == factor


@settings(max_examples=100)
@given(
    drawn=rotations(kinds=("default", *ROPE_INIT_FUNCTIONS)),
    length=st.sampled_from([1, 7, 16, 17, 63, 64, 65, 200]),
    start=st.sampled_from([0, 5, 60]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_tables_are_the_references(
    drawn: tuple[int, dict[str, Any]], length: int, start: int, dtype: torch.dtype
) -> None:
    """Inside the original context and beyond it, in one call and in a later one."""
    settled, ours = both(*drawn)
    theirs = LlamaRotaryEmbedding(settled)
    for positions in (
        torch.arange(length)[None] + start,
        torch.stack([torch.arange(length) + 3, torch.arange(length)]),
    ):
        expected = theirs(torch.empty(1, dtype=dtype), positions)
        found = ours(positions, dtype)
        assert same(found[0], expected[0])
        assert same(found[1], expected[1])
        theirs = LlamaRotaryEmbedding(settled)  # a fresh one: the reference's dynamic table remembers the longest call


@pytest.mark.parametrize("length", [16, 17])
def test_longrope_switches_at_the_original_context(length: int) -> None:
    scaling = LongRopeScaling(factor=4.0, short_factors=(1.0,) * 4, long_factors=(2.0,) * 4, original_context=16)
    cos, _ = UniversalRoPE(Rope(theta=100.0, scaling=scaling), head_dim=8)(torch.arange(length)[None], torch.float32)
    theta = 100.0 ** -(torch.arange(0, 8, 2).double() / 8) / (1.0 if length == 16 else 2.0)
    expected = (torch.arange(length).double()[:, None] * theta).cos() * scaling.table_factor
    assert torch.allclose(cos[0, :, :4].double(), expected, atol=1e-5)


def test_dynamic_grows_with_the_call() -> None:
    part = Rope(theta=100.0, scaling=DynamicScaling(factor=2.0, context=16))
    rope = UniversalRoPE(part, head_dim=8)
    plain = UniversalRoPE(Rope(theta=100.0), head_dim=8)
    inside, beyond = torch.arange(16)[None], torch.arange(17)[None]
    assert same(rope(inside, torch.float32)[0], plain(inside, torch.float32)[0])
    grown = 100.0 * (2.0 * 17 / 16 - 1.0) ** (8 / 6)
    expected = (torch.arange(17).double()[:, None] * grown ** -(torch.arange(0, 8, 2).double() / 8)).cos()
    assert torch.allclose(rope(beyond, torch.float32)[0][0, :, :4].double(), expected, atol=1e-5)


# The rotation

PAIRINGS = ["half", "interleaved", "interleaved_to_half"]


def turned(x: Tensor, positions: Tensor, theta: float, dims: int, pairing: str) -> Tensor:
    """The definition: each pair is a complex number, multiplied by exp(i · position · frequency), in float64."""
    x = x.double()
    rotated, rest = x[..., :dims], x[..., dims:]
    angle = positions.double()[:, None, :, None] * theta ** -(torch.arange(0, dims, 2).double() / dims)
    if pairing == "half":
        real, imaginary = rotated.chunk(2, dim=-1)
    else:
        real, imaginary = rotated[..., 0::2], rotated[..., 1::2]
    out = torch.complex(real, imaginary) * torch.polar(torch.ones_like(angle), angle)
    if pairing == "interleaved":
        joined = torch.stack((out.real, out.imag), dim=-1).flatten(-2)
    else:
        joined = torch.cat((out.real, out.imag), dim=-1)
    return torch.cat((joined, rest), dim=-1)


@pytest.mark.parametrize("product", ["model", "float32"])
@pytest.mark.parametrize("fraction", [1.0, 0.5, 0.25])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_rotation_is_multiplication_by_a_complex_number(pairing: Any, fraction: float, product: Any) -> None:
    torch.manual_seed(0)
    rope = UniversalRoPE(Rope(theta=100.0, fraction=fraction, pairing=pairing, product=product), head_dim=16)
    query, key = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 9, 16)
    positions = torch.stack([torch.arange(9), torch.arange(9) + 30])
    found = rope.rotate(query, key, rope(positions, torch.float32))
    for mine, x in zip(found, (query, key), strict=True):
        expected = turned(x, positions, 100.0, rope.dims, pairing)
        assert mine.dtype == torch.float32
        assert torch.allclose(mine.double(), expected, atol=1e-5)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_scores_depend_on_distance_alone(pairing: Any) -> None:
    torch.manual_seed(0)
    rope = UniversalRoPE(Rope(theta=100.0, pairing=pairing), head_dim=16)
    query, key = torch.randn(1, 1, 1, 16).expand(1, 1, 30, 16), torch.randn(1, 1, 1, 16).expand(1, 1, 30, 16)
    rotated = rope.rotate(query, key, rope(torch.arange(30)[None], torch.float32))
    scores = (rotated[0] @ rotated[1].transpose(-1, -2))[0, 0]
    for distance in (0, 1, 13):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_the_references_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 9, 16).to(dtype), torch.randn(2, 2, 9, 16).to(dtype)
    positions = torch.arange(9)[None] + 20

    def expect(part: Rope, expected: tuple[Tensor, Tensor]) -> None:
        rope = UniversalRoPE(part, head_dim=16)
        found = rope.rotate(query, key, rope(positions, dtype))
        assert same(found[0], expected[0]) and same(found[1], expected[1])

    shape = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
    }
    cos, sin = LlamaRotaryEmbedding(LlamaConfig(**shape))(query, positions)
    expect(Rope(theta=100.0), modeling_llama.apply_rotary_pos_emb(query, key, cos, sin))
    expect(
        Rope(theta=100.0, pairing="interleaved_to_half"),
        modeling_glm4_moe_lite.apply_rotary_pos_emb_interleave(query, key, cos, sin),
    )
    cos, sin = modeling_cohere2.Cohere2RotaryEmbedding(Cohere2Config(**shape))(query, positions)
    expect(
        Rope(theta=100.0, pairing="interleaved", product="float32"),
        modeling_cohere2.apply_rotary_pos_emb(query, key, cos, sin),
    )


# Where the frequencies live


def test_a_cast_of_the_model_does_not_round_the_frequencies() -> None:
    """Not by .to, .bfloat16, .half, nor by building under another default dtype, before or after a first call."""
    n = ArchitectureParameter.from_huggingface(raw("llama"))
    positions = torch.arange(300)[None]
    expected = UniversalTransformer(n).plan.ropes[0](positions, torch.float32)
    for cast in (
        lambda m: m.to(torch.bfloat16),
        lambda m: m.bfloat16(),
        lambda m: m.half(),
        lambda m: m.to(torch.float64),
    ):
        for called_before in (False, True):
            model = UniversalTransformer(n)
            if called_before:
                model(torch.zeros(1, 3, dtype=torch.long))
            found = cast(model).plan.ropes[0](positions, torch.float32)
            assert same(found[0], expected[0]) and same(found[1], expected[1])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = UniversalTransformer(n)
        found = model.plan.ropes[0](positions, torch.float32)
    finally:
        torch.set_default_dtype(before)
    assert same(found[0], expected[0])


def test_tables_are_rounded_last() -> None:
    """In a bfloat16 model the angle 299 · θ is not rounded to 8 bits before its cosine."""
    rope = UniversalRoPE(Rope(theta=100.0), head_dim=16)
    wide, narrow = (rope(torch.arange(300)[None], dtype)[0] for dtype in (torch.float32, torch.bfloat16))
    assert same(narrow, wide.to(torch.bfloat16))
    kept = UniversalRoPE(Rope(theta=100.0, table="float32"), head_dim=16)
    assert same(kept(torch.arange(300)[None], torch.bfloat16)[0], wide)


def test_no_frequency_is_a_parameter_or_a_saved_buffer() -> None:
    assert not list(UniversalRoPE(Rope(theta=100.0), head_dim=16).state_dict())
    assert not [name for name, _ in pair("llama")[1].named_buffers()]


# From a whole n


def test_from_n_takes_the_commonest_rotation() -> None:
    n = ArchitectureParameter.from_huggingface(raw("gemma3_text"))
    rope = UniversalRoPE(n)
    assert rope.part.theta == 10000.0 and rope.head_dim == 16
    latent = UniversalRoPE(ArchitectureParameter.from_huggingface(raw("glm4_moe_lite")))
    assert latent.head_dim == 8
    with pytest.raises(ValueError, match="rotates nothing"):
        UniversalRoPE(ArchitectureParameter.from_huggingface(raw("gpt2")))


def test_what_cannot_be_turned_is_refused() -> None:
    with pytest.raises(InvalidArchitecture, match="must be even"):
        UniversalRoPE(Rope(theta=100.0), head_dim=9)
    short = LongRopeScaling(factor=2.0, short_factors=(1.0,) * 4, long_factors=(1.0,) * 3, original_context=8)
    with pytest.raises(InvalidArchitecture, match=r"long_factors holds 3 numbers: must be 4"):
        UniversalRoPE(Rope(theta=100.0, scaling=short), head_dim=8)


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_the_last_dimensions_turn_as_the_first_would(pairing: Any) -> None:
    first = UniversalRoPE(Rope(theta=100.0, fraction=0.5, pairing=pairing), head_dim=8)
    last = UniversalRoPE(Rope(theta=100.0, fraction=0.5, pairing=pairing, part_rotated="last"), head_dim=8)
    x, tables = torch.randn(1, 2, 5, 8), first(torch.arange(5)[None], torch.float32)
    swapped = torch.cat([x[..., 4:], x[..., :4]], dim=-1)
    turned = first.turned(swapped, tables)
    assert torch.equal(last.turned(x, tables), torch.cat([turned[..., 4:], turned[..., :4]], dim=-1))


def test_positions_of_heads_turn_as_heads_of_positions() -> None:
    by_head, by_position = (UniversalRoPE(Rope(theta=100.0, over=over), head_dim=8) for over in ("heads", "positions"))
    x, tables = torch.randn(1, 2, 5, 8), by_head(torch.arange(5)[None], torch.float32)
    assert torch.equal(by_head.turned(x, tables), by_position.turned(x, tables))


def test_equal_rotations_share_their_tables() -> None:
    ours = pair("gemma3_text")[1]
    assert len(ours.plan.ropes) == 2
    assert len(pair("llama")[1].plan.ropes) == 1
    assert not pair("gpt2")[1].plan.ropes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clockwise_is_the_references_bit_for_bit(dtype: torch.dtype) -> None:
    """nanochat swaps the other half's sign; turning by the negative angle does the same."""
    ours = UniversalRoPE(Rope(theta=100.0, clockwise=True), head_dim=8)
    plain = UniversalRoPE(Rope(theta=100.0), head_dim=8)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, heads, 30, 8, generator=generator).to(dtype) for heads in (4, 2))
    positions = torch.arange(30)[None]
    cos, sin = plain(positions, dtype)
    expected = modeling_nanochat.apply_rotary_pos_emb(query, key, cos, sin)
    for found, wanted in zip(ours.rotate(query, key, ours(positions, dtype)), expected, strict=True):
        assert same(found, wanted)
