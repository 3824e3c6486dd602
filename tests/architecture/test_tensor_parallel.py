"""The plan of a split: pieces that cover the whole, an n for each rank, and reasons for what stays whole."""

from __future__ import annotations

import json

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.ends import Embedding
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.packing import Packed
from nexus_universal.architecture.position import Alibi
from nexus_universal.architecture.tensor_parallel import Cut, Split, Whole, split, tensor_parallel_plan
from nexus_universal.checkpoint.load import slots
from tests.architecture.small import NORM, attention, experts, feed_forward, layer, small

THREE = Packed(roles=("gate", "up"), groups=3)


def built(n: ArchitectureParameter) -> UniversalTransformer:
    with torch.device("meta"):
        return UniversalTransformer(n)


@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize("model_type", families.model_types())
def test_the_model_of_a_rank_holds_the_pieces_of_the_plan(model_type: str, ways: int) -> None:
    family = families.find(model_type)
    n = family.parameter({"model_type": model_type, **family.tiny})
    plan = tensor_parallel_plan(n, ways)
    whole, share = slots(built(n)), slots(built(plan.share))
    assert whole.keys() == share.keys() and plan.cuts.keys() <= whole.keys()
    for name, tensor in whole.items():
        shape = list(tensor.shape)
        if cut := plan.cuts.get(name):
            assert sum(length for length, _ in cut.blocks) == shape[cut.axis], name
            held = [
                [at for start, count in cut.spans(r, ways) for at in range(start, start + count)] for r in range(ways)
            ]
            assert set().union(*held) == set(range(shape[cut.axis])), name
            shape[cut.axis] = len(held[0])
        assert shape == list(share[name].shape), name
    assert plan.share.count().parameters == sum(p.numel() for p in built(plan.share).parameters())


def test_one_role_after_the_other_is_split() -> None:
    part = attention(heads=4, kv_heads=2, head_dim=2, packing=(Packed(roles=("query", "key", "value")),))
    found = split(part, 2)
    assert isinstance(found, Split)
    cut = found.cuts["query_key_value.weight"]
    assert cut == Cut(0, ((8, 2), (4, 2), (4, 2)))
    assert list(cut.spans(0, 2)) == [(0, 4), (8, 2), (12, 2)]
    assert list(cut.spans(1, 2)) == [(4, 4), (10, 2), (14, 2)]


def test_neighbours_hold_the_same_key_and_value_head() -> None:
    found = split(attention(heads=8, kv_heads=2, head_dim=2), 4)
    assert isinstance(found, Split)
    assert [list(found.cuts["key.weight"].spans(rank, 4)) for rank in range(4)] == 2 * [[(0, 2)]] + 2 * [[(2, 2)]]
    assert [list(found.cuts["query.weight"].spans(rank, 4)) for rank in (0, 3)] == [[(0, 4)], [(12, 4)]]


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (attention(heads=6, kv_heads=3), "of 3 key/value heads 2 ranks get no equal share"),
        (attention(heads=3, kv_heads=3), "2 ranks do not divide 3 heads"),
        (attention(alibi=Alibi(), kernel="eager"), "the slopes of linear biases go by the number of heads"),
        (attention(inner_norm=NORM), "its inner norm spans all heads"),
        (feed_forward(width=3), "2 ranks do not divide a width of 3"),
        (feed_forward(inner_norm=NORM), "its inner norm spans the width"),
        (feed_forward(sparsity=0.5), "its sparsity goes by a quantile over the width"),
        (
            feed_forward(width=6, packing=(Packed(roles=("gate", "up"), groups=3),)),
            "2 ranks do not divide the 3 groups of gate_up",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_split_says_why(part: object, reason: str) -> None:
    assert split(part, 2) == Whole(reason)


def test_a_plan_is_read_by_people_and_by_programs() -> None:
    n = small(layer(), layer(network=experts()), embedding=Embedding(vocab=96, width=24))
    plan = tensor_parallel_plan(n, 2)
    lines = str(plan).splitlines()
    assert lines[0] == "embedding.tokens: weight rows/2"
    assert (
        "layers.0-1.attention: query.weight rows/2, key.weight rows/2, value.weight rows/2, output.weight columns/2"
        in lines
    )
    assert "layers.1.feed_forward.experts: gate_up rows/2, down columns/2" in lines
    data = json.loads(json.dumps(plan.to_data()))
    assert data["ways"] == 2 and data["whole"] == {}
    assert data["split"]["layers.1.feed_forward.experts.down"] == {"axis": 2, "blocks": [[12, 2]]}
    odd = tensor_parallel_plan(small(), 2)
    assert odd.to_data()["whole"] == dict.fromkeys(("embedding.tokens", "head"), "2 ranks do not divide 97 tokens")


def test_keys_and_values_of_another_layer_are_split_with_it_or_not_at_all() -> None:
    whole = small(layer(attention(emit="kv")), layer(attention(reuse="kv", inner_norm=NORM)))
    reasons = [entry for path, entry in tensor_parallel_plan(whole, 2).entries.items() if path.endswith("attention")]
    assert reasons == 2 * [Whole("it shares keys and values with a layer that stays whole")]
    both = tensor_parallel_plan(small(layer(attention(emit="kv")), layer(attention(reuse="kv"))), 2)
    assert {"layers.0.attention.key.weight", "layers.1.attention.query.weight"} <= both.cuts.keys()
    assert "layers.1.attention.key.weight" not in both.cuts


def test_less_than_one_rank_is_refused() -> None:
    with pytest.raises(InputError, match="over 0 ranks: at least 1 is needed"):
        tensor_parallel_plan(small(), 0)
