"""JSON gives an equal n back, floats and all; equality and hash ignore how it was written; what is wrong is named."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hard_types import WORKS
from hypothesis import given
from hypothesis import strategies as st
from small import NORM, attention, experts, layer, small

from nexus_universal.architecture.ends import Origin, Text
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Program, Term, Write, residual_step
from nexus_universal.architecture.recurrences import StateSpace
from nexus_universal.architecture.serial import canonical_hash, from_data, runs, to_data

read = ArchitectureParameter.from_json


def edited(n: ArchitectureParameter, **changes: Any) -> str:
    return json.dumps(json.loads(n.to_json()) | changes)


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_runs_expand_to_what_they_were_made_of(items: list[str]) -> None:
    found = runs(tuple(items))
    assert [item for times, pattern in found for _ in range(times) for item in pattern] == items
    assert sum(len(pattern) for _, pattern in found) <= len(items)


@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=8), st.integers(2, 9))
def test_a_repeated_pattern_is_one_run(pattern: list[str], times: int) -> None:
    (found_times, found), *rest = runs(tuple(pattern * times))
    assert not rest
    assert len(found) * found_times == len(pattern) * times
    assert len(found) <= len(pattern)


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_exactly(eps: float, scale: float) -> None:
    n = small(final_norm=Norm(kind="rms", eps=eps)).replace("head.scale", scale)
    again = read(n.to_json())
    assert again == n
    assert again.hash == n.hash
    assert again.final_norm is not None
    assert again.final_norm.eps.hex() == (eps + 0.0).hex()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_any_order_of_layers_comes_back(kinds: list[int]) -> None:
    pool = [layer(), layer(attention(window=4)), layer(network=experts()), layer(attention(rope=None))]
    n = small(*(pool[kind] for kind in kinds))
    assert read(n.to_json()) == n


def test_equality_and_hash_ignore_how_layers_are_written() -> None:
    n = small(*12 * (layer(), layer(attention(window=4))))
    assert len(json.loads(n.to_json())["layers"]) == 1
    written_out = edited(n, layers=[to_data(program) for program in n.layers])
    by_halves = edited(n, layers=2 * [{"repeat": 6, "pattern": [to_data(program) for program in n.layers[:2]]}])
    for text in (written_out, by_halves, n.to_json(indent=None)):
        assert read(text) == n
        assert read(text).hash == n.hash
        assert read(text).to_json() == n.to_json()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (small(final_norm=Norm(kind="rms", eps=1)), small(final_norm=Norm(kind="rms", eps=1.0))),
        (small(layer(attention(scale=1))), small(layer(attention(scale=1.0)))),
        (small().replace("head.scale", 0.0), small().replace("head.scale", -0.0)),
    ],
)
def test_equal_numbers_have_equal_hashes(left: ArchitectureParameter, right: ArchitectureParameter) -> None:
    assert left == right
    assert left.hash == right.hash
    assert left.to_json() == right.to_json()


def test_numbers_in_tuples_are_floats_too_and_infinity_survives() -> None:
    state = {"heads": 4, "head_dim": 8, "state_dim": 8, "groups": 1, "convolution": 4, "norm": NORM}
    whole = StateSpace(**state, time_step=(0, math.inf), input_scales=(1, 1, 1, 1, 2))
    split = StateSpace(**state, time_step=(0.0, math.inf), input_scales=(1.0, 1.0, 1.0, 1.0, 2.0))
    assert canonical_hash(whole) == canonical_hash(split)
    bounded = StateSpace(**state, time_step=(1e-3, math.inf))
    text = json.dumps(to_data(bounded), allow_nan=False)
    assert from_data(json.loads(text)) == bounded


@pytest.mark.parametrize("name", WORKS)
def test_hashes_of_different_works_differ(name: str) -> None:
    assert sum(work().hash == WORKS[name]().hash for work in WORKS.values()) == 1


def test_what_a_default_says_is_left_out() -> None:
    assert to_data(NORM) == {"is": "Norm", "kind": "rms", "eps": 1e-6}
    assert "text" not in json.loads(small().to_json())


def test_text_and_origin_ride_along_outside_equality() -> None:
    n = small(text=Text(context=128, eos=(1, 2)), origin=Origin(family="llama"))
    again = read(n.to_json())
    assert (again.text, again.origin) == (n.text, n.origin)
    assert n == small()
    assert n.hash == small().hash
    assert n.diff(small()) == []


def test_order_of_terms_is_part_of_n() -> None:
    step = residual_step("attention", attention(), norm=NORM)
    turned = dataclasses.replace(step, writes=(Write(terms=(Term(source="attention"), Term(source="x"))),))
    left, right = (small(Program(steps=(each,))) for each in (step, turned))
    assert left != right
    assert left.hash != right.hash
    assert left.diff(right)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "n.part = 'tuple' (must be 'ArchitectureParameter')"),
        ("3", "n.part = 'int'"),
        (json.dumps(to_data(NORM)), "n.part = 'Norm'"),
        ('{"is": "Nrom", "kind": "rms"}', "n.is = 'Nrom' (known: Adapter, Alibi, AltUp,"),
        ('{"is": ["Norm"]}', "n.is = ['Norm']"),
        ('{"kind": "rms"}', "n.is = None"),
        ('{"infinity": "big"}', "n.is = None"),
        (edited(small(), wat=1), "n.wat: ArchitectureParameter has no such field"),
        (edited(small(), head={"is": "Head"}), "n.head: "),
        (edited(small(), head={"is": "Head", "tied": True, "bais": 1}), "n.head.bais: Head has no such field"),
        (edited(small(), head={"is": "Head", "tied": 1}), "head.tied = 1 must be bool"),
        (edited(small(), layers=5), "layers = 5 must be a tuple of Program"),
        (edited(small(), layers=[{"repeat": 2}]), "n.layers.0.repeat = 2"),
        (edited(small(), layers=[{"repeat": "2", "pattern": []}]), "n.layers.0.repeat = '2'"),
        (edited(small(), layers=[{"repeat": 0, "pattern": []}]), "n.layers.0.repeat = 0"),
        (
            edited(small(), final_norm={"is": "Norm", "kind": "rms", "eps": math.nan}),
            "final_norm.eps = nan must be float",
        ),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidArchitecture) as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
