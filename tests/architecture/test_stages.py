"""Where a pipeline is cut: where nothing but the residual passes, and where the longest stage is shortest."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from nexus_universal import UniversalTransformer, families
from nexus_universal.architecture.count import costs
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.program import Program, residual_step
from nexus_universal.architecture.stages import crossings, pipeline_stages
from nexus_universal.integrations.pipeline import UniversalStage
from tests.architecture.small import NORM, attention, feed_forward, layer, small


@pytest.mark.parametrize("model_type", families.model_types())
def test_costs_of_stages_are_those_of_their_modules(model_type: str) -> None:
    family = families.find(model_type)
    n = family.parameter({"model_type": model_type, **family.tiny})
    reasons = crossings(n)
    allowed = 1 + sum(reason is None for reason in reasons[1:])
    stages = pipeline_stages(n, allowed, context=7)
    assert [at for stage in stages for at in stage.layers] == list(range(len(n.layers)))
    with pytest.raises(InputError, match=f"{len(n.layers)} layers cannot be cut into {allowed + 1} stages"):
        pipeline_stages(n, allowed + 1)
    counted = n.count(context=7)
    assert sum(stage.cost.flops for stage in stages) == counted.flops_per_token
    if n.streams is None and not n.registers:
        with torch.device("meta"):
            model = UniversalTransformer(n)
        for stage in stages:
            held = sum(parameter.numel() for parameter in UniversalStage(model, stage).parameters())
            assert held == stage.cost.parameters, stage


def test_the_longest_stage_is_as_short_as_it_can_be() -> None:
    widths = (400, 16, 16, 300, 64, 16, 16)
    n = small(*(layer(network=feed_forward(width=width)) for width in widths))
    before, *layers, behind = (cost.flops for cost in costs(n, context=1, dtype="float32"))
    layers[0], layers[-1] = layers[0] + before, layers[-1] + behind
    for stages in (1, 2, 3, 4, 7):
        longest = min(
            max(sum(layers[a:b]) for a, b in zip((0, *cuts), (*cuts, len(layers)), strict=True))
            for cuts in combinations(range(1, len(layers)), stages - 1)
        )
        found = pipeline_stages(n, stages)
        assert len(found) == stages and max(stage.cost.flops for stage in found) == longest


def test_a_cut_goes_around_layers_that_hand_something_on() -> None:
    n = small(layer(), layer(attention(emit="kv")), layer(attention(reuse="kv")), layer())
    assert crossings(n) == [None, None, "layers reuse 'kv', which earlier ones emit", None]
    assert [list(stage.layers) for stage in pipeline_stages(n, 3)] == [[0], [1, 2], [3]]


def test_what_a_layer_hands_on_to_itself_does_not_hinder() -> None:
    """But what it reuses before it emits the like comes from another."""
    first, then = (
        Program(
            steps=tuple(residual_step(f"attention_{at}", attention(**each), norm=NORM) for at, each in enumerate(parts))
        )
        for parts in (({"emit": "kv"}, {"reuse": "kv"}), ({"reuse": "kv"}, {"emit": "kv"}))
    )
    assert crossings(small(layer(), first)) == [None, None]
    assert crossings(small(first, then)) == [None, "layers reuse 'kv', which earlier ones emit"]


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("zamba2", "layers read the register 'e', which earlier ones hold"),
        ("hrm_text", "layers read the register 'low', which earlier ones hold"),
        ("gemma4_text", "layers read token ids, or tables by token"),
        ("deepseek_v4", "several residual streams are filled and merged by one module"),
        ("zaya", "routers read what earlier ones remember"),
    ],
)
def test_what_cannot_be_cut_says_why(model_type: str, reason: str) -> None:
    n = families.find(model_type).example()
    with pytest.raises(InputError, match=reason):
        pipeline_stages(n, len(n.layers))


def test_less_than_one_stage_is_refused() -> None:
    with pytest.raises(InputError, match="a pipeline of 0 stages: at least 1 is needed"):
        pipeline_stages(small(), 0)
