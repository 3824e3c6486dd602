"""Paths reach every leaf, reach nothing else, and say so when they reach nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hard_types import WORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import write
from small import NORM, attention, experts, layer, small

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.parameter import ABSENT, ArchitectureParameter
from nexus_universal.architecture.paths import fields_of, leaves, ranges, replaced
from nexus_universal.architecture.position import Rope
from nexus_universal.architecture.program import Read, Step, Write


def leaf_paths(n: ArchitectureParameter) -> dict[str, Any]:
    """Every path that may be replaced by a number, of a whole n."""
    found: dict[str, Any] = {}
    for name in ("embedding", "final_norm", "head", "streams"):
        found |= dict(leaves(getattr(n, name), name))
    for index, program in enumerate(n.layers):
        found |= dict(leaves(program, f"layers.{index}"))
    return {path: value for path, value in found.items() if path.rsplit(".", 1)[-1] not in ("is", "steps")}


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_leaf_is_replaced_alone_and_a_diff_names_it(data: st.DataObject) -> None:
    n = WORKS[data.draw(st.sampled_from(list(WORKS)))]()
    path = data.draw(st.sampled_from(list(leaf_paths(n))))
    changed = replaced(n, path, 12345)
    assert leaf_paths(changed) == leaf_paths(n) | {path: 12345}
    (change,) = n.diff(changed)
    assert change.right == 12345
    assert path in (change.path, *(f"layers.{index}.{change.path}" for index in change.layers))


@pytest.mark.parametrize("name", WORKS)
def test_no_two_leaves_have_one_path(name: str) -> None:
    n = WORKS[name]()
    for program in n.layers:
        paths = [path for path, _ in leaves(program)]
        assert len(paths) == len(set(paths))


def test_the_leaves_of_a_layer_in_full() -> None:
    program = dataclasses.replace(small(layer(attention(window=4))).layers[0], share="turn")
    program = dataclasses.replace(
        program, steps=(*program.steps[:1], Step(branches=(), writes=(write("x", register="m"),)))
    )
    assert dict(leaves(program, "layers.3")) == {
        "layers.3.share": "turn",
        "layers.3.steps": ("attention", ""),
        "layers.3.attention.is": "Attention",
        **{f"layers.3.attention.{name}": value for name, value in ATTENTION.items()},
        "layers.3.attention.rope.is": "Rope",
        **{f"layers.3.attention.rope.{name}": value for name, value in ROPE.items()},
        **dict.fromkeys([f"layers.3.attention.{name}" for name in ("input_norm", "input_scale", "output_norm")]),
        "layers.3.attention.share": None,
        "layers.3.attention.adapters": (),
        **step_leaves("attention_step", ("x", "attention"), "x"),
        "layers.3.attention_step.norm.is": "Norm",
        **{f"layers.3.attention_step.norm.{name}": value for name, value in fields_of(NORM).items()},
        **step_leaves("step_1", ("x",), "m"),
        "layers.3.step_1.norm": None,
    }


ROPE = fields_of(Rope(theta=1e4))
ATTENTION = {name: value for name, value in fields_of(attention(window=4)).items() if name != "rope"}


def step_leaves(name: str, sources: tuple[str, ...], register: str) -> dict[str, Any]:
    where = f"layers.3.{name}"
    write_fields = fields_of(Write(terms=(), register=register))
    return {
        f"{where}.read.is": "Read",
        **{f"{where}.read.{key}": value for key, value in fields_of(Read()).items()},
        f"{where}.connection": None,
        **{f"{where}.writes.0.{key}": value for key, value in write_fields.items() if key != "terms"},
        **{f"{where}.writes.0.terms.{i}.source": source for i, source in enumerate(sources)},
        **{f"{where}.writes.0.terms.{i}.scale": None for i in range(len(sources))},
        **{f"{where}.writes.0.terms.{i}.gain": "none" for i in range(len(sources))},
    }


def test_a_star_reaches_every_layer_that_has_the_field() -> None:
    n = small(layer(), layer(attention(window=4)), layer(network=experts()))
    assert [p.steps[0].branches[0].part.window for p in n.replace("layers.*.mixer.window", 3).layers] == [3, 3, 3]
    widths = n.replace("layers.*.feed_forward.width", 50).layers
    assert [getattr(p.steps[1].branches[0].part, "width", None) for p in widths] == [50, 50, None]
    assert n.replace("layers.*.feed_forward.experts", 8).layers[2] != n.layers[2]
    assert n.replace("layers.*.feed_forward.experts", 8).layers[:2] == n.layers[:2]


def test_indices_count_from_either_end() -> None:
    n = small(layer(), layer(attention(window=4)))
    assert n.replace("layers.-1.attention.window", 9) == n.replace("layers.1.attention.window", 9)
    assert n.replace("layers.0.attention.window", 9).layers[1] == n.layers[1]


def test_a_branchs_name_goes_before_its_role() -> None:
    both = WORKS["gemma4_text_experts"]()
    changed = both.replace("layers.0.feed_forward.output_norm.eps", 0.5).layers[0].steps[1].branches
    assert [branch.output_norm.eps for branch in changed if branch.output_norm] == [0.5, 1e-6]


def test_paths_reach_into_steps_writes_and_nested_programs() -> None:
    n = WORKS["gemma3n_text"]()
    inner = n.replace("layers.*.block.attention_step.writes.1.divisor", 3.0)
    assert {write.divisor for p in inner.layers for write in p.steps[0].branches[0].part.steps[0].writes} == {None, 3.0}
    assert n.replace("layers.2.block.attention.head_dim", 6).layers[2] != n.layers[2]
    assert n.replace("layers.0.block_step.connection.active", 1).layers[0].steps[0].connection.active == 1
    assert n.replace("embedding.per_layer.norm.eps", 0.5).embedding.per_layer.norm.eps == 0.5


def test_raw_fields_are_paths_too() -> None:
    n = small()
    by_field = n.replace("layers.0.steps.0.branches.0.part.window", 7)
    assert by_field == n.replace("layers.0.attention.window", 7)
    assert n.replace("layers", n.layers[:1]).num_layers == 1
    assert n.replace("layers.0.steps.0", n.layers[1].steps[0]) == n


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("heads", "(known: embedding, layers, final_norm, head,"),
        ("layers.0.atention.heads", "(a layer has: attention, feed_forward, steps, share)"),
        ("layers.0.attention.windw", "n has no field 'layers.0.attention.windw'"),
        ("layers.*.experts.width", "n has no field"),
        ("layers.7.attention.window", "n has no field"),
        ("layers.first.attention.window", "n has no field"),
        ("head.tied.really", "n has no field"),
        ("final_norm.eps.", "n has no field"),
        ("", "n has no field ''"),
    ],
)
def test_a_path_that_names_nothing_says_what_there_is(path: str, hint: str) -> None:
    with pytest.raises(InvalidArchitecture) as error:
        small().replace(path, 1)
    assert hint in str(error.value)


def test_leaves_say_what_is_absent() -> None:
    (change,) = small(layer(attention(rope=None))).diff(small(layer(attention(window=3, rope=None))))
    assert (change.path, change.left, change.right, change.layers) == ("attention.window", None, 3, (0,))
    changes = small(layer(attention(rope=None))).diff(small(layer()))
    assert ("attention.rope.theta", ABSENT, 1e4) in [(c.path, c.left, c.right) for c in changes]
    assert repr(ABSENT) == "—"


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_name_exactly_their_indices(indices: set[int]) -> None:
    named: set[int] = set()
    for piece in ranges(tuple(sorted(indices))).split(","):
        first, _, last = piece.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert named == indices


def test_replacing_leaves_the_original_alone() -> None:
    n = small()
    copy = dataclasses.replace(n)
    n.replace("layers.*.attention.window", 3)
    assert n == copy
