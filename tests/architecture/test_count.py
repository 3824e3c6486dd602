"""Counts against numbers worked out by hand, and against published models."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest
from hard_types import WORKS
from hypothesis import given
from hypothesis import strategies as st
from small import NORM, attention, experts, feed_forward, layer, small

from nexus_universal.architecture.costs import cost
from nexus_universal.architecture.ends import Beside, Embedding, Head, HeadTransform, LearnedPositions, Narrow, Register
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import LatentAttention, OutputGate, Packed, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import PARTS, ByLayer
from nexus_universal.architecture.position import Alibi, Norm, Rope
from nexus_universal.architecture.program import Adapter, Branch, Linear, Program, Step, Term, Write, residual_step
from nexus_universal.architecture.recurrences import GatedDeltaRule

LAYER_NORM = Norm(kind="layer", eps=1e-5, bias=True)
WIDE = QueryKeyNorm(norm=NORM, over="width")
PACK = (Packed(roles=("query", "key", "value")),)
NUMBERS = ("parameters", "active_parameters", "flops_per_token", "cache_bytes_per_token", "fixed_state_bytes")


def counted(n: ArchitectureParameter, context: int = 10, dtype: str = "float32") -> tuple[float, ...]:
    count = n.count(context=context, dtype=dtype)
    return tuple(getattr(count, name) for name in NUMBERS)


def test_a_small_model_by_hand() -> None:
    projections = 32 * 24 + 2 * 16 * 24 + 24 * 32
    per_layer = projections + 3 * 48 * 24 + 2 * 24
    parameters = 97 * 24 + 2 * per_layer + 24 + 97 * 24
    assert (projections, per_layer, parameters) == (2304, 5808, 16296)
    flops = 2 * (2 * (2304 + 3456) + 2 * 4 * 10 * 16) + 2 * 97 * 24
    assert counted(small()) == (16296, 16296, flops, 2 * 2 * 16 * 4, 0)
    assert flops == 30256


def test_context_and_dtype() -> None:
    assert counted(small(), context=11)[2] - counted(small(), context=10)[2] == 2 * 2 * 4 * 16
    assert counted(small(), dtype="bfloat16")[3:] == (128, 0)
    assert counted(small(), dtype="float8_e4m3fn")[3:] == (64, 0)
    assert small().count().context == 1
    assert small().count().dtype == "float32"


def test_a_window_bounds_both_flops_and_memory() -> None:
    n = small(layer(attention(window=5)))
    assert counted(n, context=5)[2] == counted(n, context=500)[2] == counted(small(layer()), context=5)[2]
    assert counted(n)[3:] == (0, 4 * 2 * 16 * 4)
    assert counted(small(layer(attention(window=1))))[3:] == (0, 0)


CHANGES: dict[str, tuple[Any, Any, int, int]] = {
    "biases": (attention(biases=("query", "key", "value", "output")), None, 32 + 16 + 16 + 24, 0),
    "packed": (attention(packing=PACK), None, 0, 0),
    "norm per head": (attention(qk_norm=QueryKeyNorm(norm=NORM)), None, 8 + 8, 0),
    "norm over width": (attention(qk_norm=WIDE), None, 32 + 16, 0),
    "norm with bias": (attention(qk_norm=QueryKeyNorm(norm=LAYER_NORM)), None, 2 * (8 + 8), 0),
    "value norm": (attention(value_norm=NORM), None, 8, 0),
    "bare value norm": (attention(value_norm=Norm(kind="rms", eps=1.0, scale="none")), None, 0, 0),
    "gate": (attention(gate=OutputGate()), None, 32 * 24, 2 * 32 * 24),
    "gate per head": (attention(gate=OutputGate(per="head")), None, 4 * 24, 2 * 4 * 24),
    "gate bias": (attention(gate=OutputGate(), biases=("gate",)), None, 32 * 24 + 32, 2 * 32 * 24),
    "sinks": (attention(sinks=True, kernel="eager"), None, 4, 0),
    "alibi": (attention(alibi=Alibi()), None, 0, 0),
    "scale": (attention(scale=ByLayer(rule="divide", value=0.5)), None, 0, 0),
    "value is key": (attention(value_is_key=True), None, -16 * 24, -2 * 16 * 24),
    "no gate in the network": (None, feed_forward(gated=False), -48 * 24, -2 * 48 * 24),
    "network biases": (None, feed_forward(biases=("gate", "up", "down")), 48 + 48 + 24, 0),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_field_adds_its_own_weights(case: str) -> None:
    mixer, network, parameters, flops = CHANGES[case]
    plain, changed = counted(small(layer())), counted(small(layer(mixer, network)))
    assert changed[0] - plain[0] == parameters
    assert changed[2] - plain[2] == flops
    assert changed[3:] == plain[3:]


def test_reused_keys_and_values_cost_nothing() -> None:
    norm = QueryKeyNorm(norm=NORM)
    one, two = small(layer(attention(emit="a", qk_norm=norm))), layer(attention(reuse="a", qk_norm=norm))
    added = [b - a for a, b in zip(counted(one), counted(small(*one.layers, two)), strict=True)]
    weights = 2 * 32 * 24 + 3 * 48 * 24
    assert added[0] == weights + 8 + 2 * 24
    assert added[2] == 2 * weights + 2 * 4 * 10 * 16
    assert added[3:] == [0, 0]


def test_ends() -> None:
    assert counted(small(tied=True))[0] == 16296 - 97 * 24
    assert counted(small(tied=True))[2] == counted(small())[2]
    assert counted(small(head=Head(tied=True, bias=True)))[0] == 16296 - 97 * 24 + 97
    assert counted(small(final_norm=None))[0] == 16296 - 24
    assert counted(small(final_norm=LAYER_NORM))[0] == 16296 + 24
    assert counted(small(registers=(Register(name="m"),)))[0] == 16296 + 24
    learned = Embedding(vocab=97, width=24, positions=LearnedPositions(count=34, offset=2), norm=LAYER_NORM)
    assert counted(small(embedding=learned))[0] == 16296 + 34 * 24 + 48
    assert counted(small(embedding=Embedding(vocab=97, width=24, types=2, tasks=3)))[0] == 16296 + 5 * 24
    narrow = Embedding(
        vocab=97, width=24, types=2, narrow=Narrow(width=8), positions=LearnedPositions(count=34), norm=LAYER_NORM
    )
    assert counted(small(embedding=narrow))[0] == 16296 - 97 * 24 + (97 + 2 + 34) * 8 + 16 + 8 * 24 + 24
    assert counted(small(embedding=narrow))[2] == counted(small())[2] + 2 * 8 * 24
    beside = Embedding(vocab=97, width=24, beside=(Beside(name="shape", count=5, width=6),))
    assert counted(small(embedding=beside))[0] == 16296 + 5 * 6 + 30 * 24 + 24
    assert counted(small(embedding=beside))[2] == counted(small())[2] + 2 * 30 * 24
    head = Head(tied=False, transform=HeadTransform(width=8, activation="gelu", norm=LAYER_NORM))
    assert counted(small(head=head))[0] == 16296 - 97 * 24 + 97 * 8 + 24 * 8 + 8 + 16
    assert counted(small(head=head))[2] == counted(small())[2] + 2 * (97 * 8 + 24 * 8 - 97 * 24)


def test_experts() -> None:
    one, router = 3 * 12 * 24, 6 * 24
    dense, mixed = counted(small(layer())), counted(small(layer(network=experts())))
    assert mixed[0] - dense[0] == 6 * one + router - 3 * 48 * 24
    assert mixed[0] - mixed[1] == 4 * one
    assert mixed[2] - dense[2] == 2 * (2 * one + router - 3 * 48 * 24)
    biased = counted(
        small(
            layer(
                network=experts(
                    expert=feed_forward(width=12, biases=("gate", "up", "down")),
                    router=Router(score="softmax_chosen", normalise=False, bias=True),
                )
            )
        )
    )
    assert biased[0] - mixed[0] == 6 * (2 * 12 + 24) + 6
    assert biased[2:] == mixed[2:]


@pytest.mark.parametrize(
    ("fields", "parameters", "idle", "flops"),
    [
        ({"shared": feed_forward(width=7)}, 3 * 7 * 24, 0, 2 * 3 * 7 * 24),
        ({"shared": feed_forward(width=7), "shared_gate": True}, 3 * 7 * 24 + 24, 0, 2 * (3 * 7 * 24 + 24)),
        ({"identity_experts": 2}, 2 * 24, 0, 2 * 2 * 24),
        ({"bias": True}, 24, 0, 0),
        ({"latent": 10}, 2 * 10 * 24 - 6 * 36 * 14, -4 * 36 * 14, 2 * (2 * 10 * 24 - 2 * 36 * 14)),
        ({"latent": 10, "latent_bias": True}, 2 * 240 + 34 - 6 * 36 * 14, -4 * 36 * 14, 2 * (480 - 2 * 36 * 14)),
        ({"router": Router(score="sigmoid", normalise=True, selection_bias=True)}, 0, 0, 0),
        ({"router": Router(score="softmax", normalise=True, expert_scale=True)}, 6, 0, 0),
        ({"router": Router(score="softmax", normalise=True, input_norm=NORM, input_scale=True)}, 48, 0, 0),
    ],
)
def test_an_experts_field_adds_its_own_weights(fields: dict[str, Any], parameters: int, idle: int, flops: int) -> None:
    plain, changed = counted(small(layer(network=experts()))), counted(small(layer(network=experts(**fields))))
    assert changed[0] - plain[0] == parameters
    assert (changed[0] - changed[1]) - (plain[0] - plain[1]) == idle
    assert changed[2] - plain[2] == flops


def test_latent_attention_expands_every_position_again() -> None:
    part = LatentAttention(
        heads=4,
        query_rank=10,
        latent_rank=6,
        nope_dim=5,
        rope_dim=2,
        value_dim=3,
        latent_norm=NORM,
        rope=Rope(theta=1e4),
    )
    weights = 10 * 24 + 10 + 28 * 10 + 8 * 24 + 6 + 32 * 6 + 24 * 12
    n = small(Program(steps=(residual_step("attention", part, norm=None),)))
    flops = 2 * (10 * 24 + 28 * 10 + 8 * 24 + 10 * 32 * 6 + 24 * 12) + 2 * 4 * 10 * (7 + 3)
    assert counted(n) == (2 * 97 * 24 + 24 + weights,) * 2 + (flops + 2 * 97 * 24, 8 * 4, 0)


def test_the_delta_rule_keeps_a_state_of_its_own_dtype() -> None:
    part = GatedDeltaRule(key_heads=2, value_heads=4, key_dim=8, value_dim=6, convolution=3, norm=NORM)
    channels, matrices = 16 + 16 + 24, (16 + 16 + 24 + 24 + 4 + 4) * 24 + 24 * 24
    n = small(Program(steps=(residual_step("delta", part, norm=None),)))
    parameters = 2 * 97 * 24 + 24 + matrices + channels * 3 + 4 + 4 + 6
    flops = 2 * matrices + 2 * 2 * channels * 3 + 2 * 97 * 24
    assert counted(n, dtype="bfloat16") == (parameters,) * 2 + (flops, 0, channels * 3 * 2 + 4 * 8 * 6 * 4)


def test_shared_layers_are_counted_once_and_computed_each_time() -> None:
    turn = dataclasses.replace(layer(), share="turn")
    once, thrice = counted(small(turn)), counted(small(turn, turn, turn))
    assert thrice[:2] == once[:2]
    assert thrice[2] - 2 * 97 * 24 == 3 * (once[2] - 2 * 97 * 24)
    assert thrice[3] == 3 * once[3]
    other = dataclasses.replace(layer(), share="other")
    assert counted(small(turn, other))[0] == counted(small(layer(), layer()))[0]


def test_adapters_are_each_uses_own() -> None:
    def use(*adapters: Adapter) -> Program:
        branch = Branch(name="a", part=attention(packing=PACK), share="s", input_norm=NORM, adapters=adapters)
        return Program(steps=(Step(branches=(branch,), writes=(Write(terms=(Term(source="x"), Term(source="a"))),)),))

    plain = counted(small(use(), use()))
    adapted = counted(small(use(Adapter(target="query_key_value", rank=3)), use()))
    own = 3 * 24 + (32 + 16 + 16) * 3
    assert adapted[0] - plain[0] == own
    assert adapted[2] - plain[2] == 2 * own
    assert counted(small(use(), use()))[0] - counted(small(use()))[0] == 24


def test_a_projection_gives_the_models_width() -> None:
    def projected(bias: bool) -> float:
        return counted(small(Program(steps=(residual_step("linear", Linear(bias=bias), norm=None),))))[0]

    assert projected(False) == 2 * 97 * 24 + 24 + 24 * 24
    assert projected(True) - projected(False) == 24


def test_published_sizes() -> None:
    qwen3_06b = small(
        *28
        * (
            layer(
                attention(heads=16, kv_heads=8, head_dim=128, qk_norm=QueryKeyNorm(norm=NORM)), feed_forward(width=3072)
            ),
        ),
        embedding=Embedding(vocab=151936, width=1024),
        tied=True,
    )
    assert qwen3_06b.count().parameters == 596_049_920

    latent = LatentAttention(
        heads=128, query_rank=1536, latent_rank=512, nope_dim=128, rope_dim=64, value_dim=128, latent_norm=NORM
    )
    sparse = MixtureOfExperts(
        experts=256,
        per_token=8,
        expert=FeedForward(width=2048, activation="silu"),
        shared=FeedForward(width=2048, activation="silu"),
        router=Router(score="sigmoid", normalise=True, selection_bias=True),
    )
    deepseek_v3 = small(
        *3 * (layer(latent, feed_forward(width=18432)),),
        *58 * (layer(latent, sparse),),
        embedding=Embedding(vocab=129280, width=7168),
    )
    count = deepseek_v3.count(context=1, dtype="bfloat16")
    assert count.parameters == 671_026_404_352
    assert count.active_parameters == 37_552_282_624
    assert count.cache_bytes_per_token == 61 * (512 + 64) * 2
    assert str(count) == (
        "671 G parameters (37.6 G active) · 73.3 GFLOP per token at context 1 · cache 70.3 kB per token (bfloat16)"
    )

    gated = attention(heads=16, kv_heads=2, head_dim=256, gate=OutputGate(), qk_norm=QueryKeyNorm(norm=NORM))
    delta = GatedDeltaRule(key_heads=16, value_heads=32, key_dim=128, value_dim=128, convolution=4, norm=NORM)
    mixture = MixtureOfExperts(
        experts=512,
        per_token=10,
        expert=FeedForward(width=512, activation="silu"),
        shared=FeedForward(width=512, activation="silu"),
        shared_gate=True,
        router=Router(score="softmax", normalise=True),
    )
    qwen3_next = small(
        *12 * (*3 * (layer(delta, mixture),), layer(gated, mixture)), embedding=Embedding(vocab=151936, width=2048)
    )
    assert qwen3_next.count().parameters == 79_674_391_296


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float64", 8), ("float32", 4), ("bfloat16", 2), ("float16", 2), ("float8_e4m3fn", 1), ("float8_e5m2", 1)],
)
def test_the_size_of_an_element(dtype: str, size: int) -> None:
    assert small().count(dtype=dtype).cache_bytes_per_token == 64 * size


@pytest.mark.parametrize(
    ("number", "short"),
    [(999, "999"), (1000, "1 k"), (12345, "12.3 k"), (10**6, "1 M"), (10**9, "1 G"), (10**12, "1 T")],
)
def test_numbers_are_short(number: int, short: str) -> None:
    plain = small().count()
    assert str(dataclasses.replace(plain, parameters=number, active_parameters=number)).startswith(
        f"{short} parameters"
    )
    state = dataclasses.replace(plain, fixed_state_bytes=number)
    assert f" per token + {short}{'' if ' ' in short else ' '}B fixed (float32)" in str(state)


@given(st.sampled_from(list(WORKS)), st.integers(1, 200))
def test_counts_are_whole_and_in_order(name: str, context: int) -> None:
    count = WORKS[name]().count(context=context)
    assert 0 < count.active_parameters <= count.parameters
    assert count.flops_per_token <= WORKS[name]().count(context=context + 1).flops_per_token
    assert all(isinstance(getattr(count, field), int) for field in NUMBERS)
    half = WORKS[name]().count(context=context, dtype="bfloat16")
    assert half.cache_bytes_per_token * 2 == count.cache_bytes_per_token
    assert half.parameters == count.parameters


WORKED_OUT = {
    "falcon_h1": (33846, 33846, 72816, 288, 9984),
    "longcat_flash": (35472, 31440, 159312, 224, 0),
    "zamba2": (67274, 67274, 177064, 1152, 23296),
    "gemma3n_text": (62714, 62714, 130704, 128, 2048),
    "gemma4_text": (39246, 39246, 81040, 192, 1024),
    "gemma4_text_experts": (60238, 42094, 92176, 192, 2048),
    "deepseek_v32": (56032, 38752, 181272, 448, 0),
    "deepseek_v4": (113057, 81953, 181936, 60, 12672),
    "kimi_linear": (121152, 75072, 229128, 168, 11520),
    "minimax": (57816, 31896, 63792, 192, 1152),
    "jetmoe": (61204, 28912, 69244, 576, 0),
    "hrm_text": (25992, 25992, 207408, 3072, 0),
    "nemotron_h": (40096, 36576, 76320, 112, 14592),
}
"""At 21 positions; `test_hard_types_reference.py` shows (slowly) that the reference's counts are the same."""


@pytest.mark.parametrize("name", WORKS)
def test_the_hard_types_counts(name: str) -> None:
    assert counted(WORKS[name](), context=21) == WORKED_OUT[name]


@pytest.mark.parametrize(("per", "rows"), [("head", 4), ("channel", 12)])
def test_a_gate_and_sinks_on_latent_attention(per: Literal["head", "channel"], rows: int) -> None:
    part = LatentAttention(
        heads=4, query_rank=None, latent_rank=6, nope_dim=5, rope_dim=2, value_dim=3, latent_norm=NORM, sinks=True
    )
    plain, gated = (small(layer(each)) for each in (part, dataclasses.replace(part, gate=OutputGate(per=per))))
    assert counted(gated)[0] - counted(plain)[0] == rows * 24
    assert counted(plain)[0] - counted(small(layer(dataclasses.replace(part, sinks=False))))[0] == 4
    biased = dataclasses.replace(part, biases=("latent_down", "output"))
    assert counted(small(layer(biased)))[0] - counted(plain)[0] == 8 + 24


def test_a_low_rank_is_not_a_full_one() -> None:
    part = GatedDeltaRule(
        key_heads=3, value_heads=3, key_dim=8, value_dim=8, convolution=4, norm=NORM, decay="channel", low_rank=5
    )
    full, low = counted(small(layer(dataclasses.replace(part, low_rank=None)))), counted(small(layer(part)))
    assert full[0] - low[0] == 2 * (24 * 24 - 5 * 48)


def test_fractions_of_a_byte_are_told() -> None:
    n = WORKS["deepseek_v4"]().replace("layers.0.attention.rate", 128)
    assert n.count(dtype="float16").cache_bytes_per_token == 30 - 2 + 0.25


def test_every_part_that_a_branch_or_step_can_hold_has_a_cost() -> None:
    computed = {cls.__name__ for cls in cost.registry if cls.__name__ in PARTS}
    branch = set(Branch.__annotations__["part"].replace(" ", "").replace("(", "").replace(")", "").split("|"))
    assert {name.strip() for name in branch} - {"Program"} <= computed
    assert {"HyperConnection", "AltUp", "StreamSlice"} <= computed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": 0}, "context = 0 must be at least 1: a token sees itself"),
        ({"dtype": "float12"}, "dtype = 'float12' (known: float64, float32, bfloat16"),
    ],
)
def test_what_cannot_be_counted_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        small().count(**fields)
    assert message in str(error.value)
