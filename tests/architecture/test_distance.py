"""`n.distance`: a metric on n's, and one that counts what a reader would."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import NORM, attention, experts, feed_forward, layer, small

from nexus_universal import families
from nexus_universal.architecture.distance import leaf_distance
from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.paths import leaves

NAMES = ("qwen3", "llama", "gemma3_text", "gpt2", "glm4_moe_lite", "qwen3_next", "zamba2", "gemma3n_text", "bert")
ZOO = [
    families.find(name).parameter({"model_type": name, **families.find(name).tiny})
    for name in families.model_types()
    if name in NAMES
]
LAYERS = [
    layer(),
    layer(attention(window=8)),
    layer(attention(heads=8)),
    layer(network=feed_forward(width=51)),
    layer(network=experts()),
]

drawn = st.one_of(
    st.sampled_from(ZOO),
    st.builds(
        lambda layers, tied, eps: small(*layers, head=Head(tied=tied), final_norm=NORM.__class__(kind="rms", eps=eps)),
        st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4),
        st.booleans(),
        st.sampled_from((0.0, 1e-6, 1e-5, 1.0000000000000002e-5)),
    ),
)


@settings(max_examples=150)
@given(drawn, drawn, drawn)
def test_it_is_a_metric(a: ArchitectureParameter, b: ArchitectureParameter, c: ArchitectureParameter) -> None:
    assert a.distance(a) == 0
    assert (a.distance(b) == 0) == (a == b)
    assert a.distance(b) == pytest.approx(b.distance(a), rel=1e-12)
    assert a.distance(c) <= a.distance(b) + b.distance(c) + 1e-9


leaf = st.one_of(st.floats(allow_nan=False), st.integers(-(2**60), 2**60), st.sampled_from((None, True, False, "silu")))


@given(leaf, leaf, leaf)
def test_leaves_are_a_metric_space(a: object, b: object, c: object) -> None:
    assert (leaf_distance(a, b) == 0) == (a == b)
    assert leaf_distance(a, b) == pytest.approx(leaf_distance(b, a), rel=1e-6) and leaf_distance(a, b) <= 1
    assert leaf_distance(a, c) <= leaf_distance(a, b) + leaf_distance(b, c) + 1e-12


def test_neighbouring_numbers_are_apart() -> None:
    assert leaf_distance(2.0, math.nextafter(2.0, 0)) > 0
    assert leaf_distance(1e4, 1.1e4) == pytest.approx(math.log2(1.1))
    assert leaf_distance(-1.0, 1.0) == leaf_distance(0, 1) == leaf_distance(1.0, math.inf) == 1
    assert leaf_distance(1e-300, 1e300) == leaf_distance(3, 1) == 1 and leaf_distance(1e-300, 1.5e-300) < 1


def test_what_rides_along_is_no_edit() -> None:
    n = ZOO[0]
    assert n.distance(ArchitectureParameter.from_json(n.to_json())) == 0


def test_an_edit_counts_once_in_every_layer_it_is_made_in() -> None:
    n = small(*4 * (layer(),))
    width = n.layers[0].steps[1].branches[0].part.width
    assert n.distance(n.replace("layers.2.feed_forward.width", 2 * width)) == 1
    assert n.distance(n.replace("layers.*.feed_forward.width", 4 * width)) == 4
    assert n.distance(n.replace("layers.1.mixer.window", 8).replace("head.softcap", 30.0)) == 2
    assert n.distance(n.replace("layers.0.mixer.rope.theta", 1.1e4)) == pytest.approx(math.log2(1.1))


@pytest.mark.parametrize("at", range(4))
def test_a_layer_more_costs_its_own_leaves_wherever_it_stands(at: int) -> None:
    plain = [layer(), layer(attention(window=8)), layer(attention(heads=8))]
    new = layer(network=experts())
    longer = small(*plain[:at], new, *plain[at:])
    assert small(*plain).distance(longer) == len(dict(leaves(new)))


def test_the_order_of_layers_counts() -> None:
    one, other = layer(), layer(attention(window=8))
    assert small(one, other).distance(small(other, one)) == 2


def test_kin_are_nearer_than_strangers() -> None:
    by_name = dict(zip((name for name in families.model_types() if name in NAMES), ZOO, strict=True))
    near = by_name["qwen3"].distance(by_name["llama"])
    assert all(near < by_name["qwen3"].distance(by_name[far]) for far in ("gpt2", "qwen3_next", "gemma3n_text", "bert"))
    assert all(a.distance(b) > 0 for a, b in itertools.combinations(ZOO, 2))
