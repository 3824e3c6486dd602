"""Drawn configs: fewer are the first of more, and equally long lists of values meet in every combination."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from nexus_universal import families
from nexus_universal.parity.draws import draw_configs


@pytest.mark.parametrize("model_type", families.model_types())
def test_fewer_draws_are_the_first_of_more(model_type: str) -> None:
    family = families.find(model_type)
    assert draw_configs(family, 5, seed=3) == draw_configs(family, 12, seed=3)[:5]
    assert draw_configs(family, 12, seed=3) != draw_configs(family, 12, seed=4)


def test_equally_long_lists_meet_in_every_combination() -> None:
    family = dataclasses.replace(families.find("llama"), draws={"a": (0, 1, 2), "b": (0, 1, 2)})
    configs = draw_configs(family, 100, seed=0)[1:]
    assert {(config["a"], config["b"]) for config in configs} == set(itertools.product(range(3), range(3)))


def test_every_round_of_a_key_holds_all_its_values() -> None:
    family = dataclasses.replace(families.find("llama"), draws={"a": (0, 1, 2, 3)})
    drawn = [config["a"] for config in draw_configs(family, 41, seed=0)[1:]]
    rounds = [drawn[at : at + 4] for at in range(0, 40, 4)]
    assert all(sorted(each) == [0, 1, 2, 3] for each in rounds)
    assert len({each[0] for each in rounds}) > 1
