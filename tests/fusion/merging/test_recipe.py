"""mergekit's YAML: what it says is what is read, and what is not known is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.merging.recipe import Recipe, evaluated

GRADIENT = """
slices:
  - sources:
      - model: psmathur/orca_mini_v3_13b
        layer_range: [0, 40]
      - model: {model: {path: garage-bAInd/Platypus2-13B}}
        layer_range: [0, 40]
        parameters: {weight: 1e-1}
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # the rest
dtype: float16
tokenizer: {source: union, pad_to_multiple_of: 8}
"""

TWO: dict[str, Any] = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}]}


def test_a_published_recipe_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(GRADIENT)
    recipe = Recipe.read(tmp_path / "r.yml")
    assert recipe.models == ("psmathur/orca_mini_v3_13b", "garage-bAInd/Platypus2-13B")
    assert (recipe.method, recipe.dtype, recipe.tokenizer, recipe.pad_to_multiple_of) == (
        "slerp",
        "float16",
        "union",
        8,
    )
    assert recipe.slices[0].sources[1].layers == (0, 40)
    assert recipe.slices[0].sources[1].parameters == {"weight": 0.1}  # YAML 1.1 reads 1e-1 as text

    def t(depth: float, *names: str) -> Any:
        return evaluated(recipe.parameters["t"], names=names, depth=depth)

    assert t(0.25, "layers.1.attention.query.weight", "model.layers.1.self_attn.q_proj.weight") == 0.5
    assert t(0.875, "model.layers.1.self_attn.q_proj.weight") == pytest.approx(0.85)
    assert t(1.0, "model.layers.1.mlp.up_proj.weight") == 0 and t(1.0, "lm_head.weight") == 0.5


@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=9), depth=st.floats(0, 1))
def test_a_gradient_lies_between_its_ends(values: list[float], depth: float) -> None:
    found = evaluated(tuple(values), names=("x",), depth=depth)
    assert isinstance(found, float) and min(values) - 1e-9 <= found <= max(values) + 1e-9
    assert evaluated(tuple(values), names=("x",), depth=0.0) == values[0]
    assert evaluated(tuple(values), names=("x",), depth=1.0) == pytest.approx(values[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"merge_methd": 1}, "merge_methd is not known (known: align, base_model,"),
        ({"merge_method": None}, "merge_method is missing"),
        ({"slices": []}, "give either models or slices"),
        ({"models": []}, "models must be a list that is not empty"),
        ({"models": [{"modl": "a"}]}, "models.0.modl is not known"),
        ({"models": [{"model": 3}]}, "models.0.model = 3 must be a directory or a repo id"),
        ({"models": [{"model": "a", "layer_range": [0, 1]}]}, "layer_range belongs to slices"),
        ({"models": None, "slices": [{"sources": [{"model": "a"}]}]}, "slices.0.sources.0.layer_range is missing"),
        ({"models": None, "slices": [{"sources": [{"model": "a", "layer_range": [2, 1]}]}]}, "[2, 1] must be"),
        ({"models": None, "slices": [{"sources": [], "residual_weight": 1}]}, "slices.0.residual_weight is not known"),
        ({"parameters": {"weight": [{"filter": "x"}]}}, "parameters.weight.0.value is missing"),
        ({"parameters": {"weight": []}}, "parameters.weight = [] must be a value"),
        ({"parameters": {"t": [{"value": [{"value": 1}]}]}}, "must not hold filters of its own"),
        ({"tokenizer": {"tokens": {}}}, "tokenizer.tokens is not known"),
        ({"tokenizer": {}, "tokenizer_source": "base"}, "either tokenizer or tokenizer_source"),
        ({"dtype": 16}, "dtype = 16 must be of type str"),
        ({"seed": True}, "seed = True must be of type int"),
        ({"modules": {}}, "modules is not known"),
    ],
)
def test_what_is_not_known_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    data = {key: value for key, value in (TWO | change).items() if value is not None or key == "merge_method"}
    with pytest.raises(InputError) as error:
        Recipe.of(data)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1", "3"])
def test_what_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(text)
    with pytest.raises(InputError) as error:
        Recipe.read(tmp_path / "r.yml")
    assert "\n" not in str(error.value)
