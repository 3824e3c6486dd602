"""`nexus merge`: a recipe in, a checkpoint and what is left of its sources out; one line and status 2 otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.cli.support import DATA, TRAINED, Result

Run = Callable[..., Result]
RECIPE = f"""
merge_method: task_arithmetic
base_model: {TRAINED}
models:
  - model: {{copy}}
    parameters: {{{{weight: 1.0}}}}
"""


def test_a_recipe_becomes_a_checkpoint_with_a_certificate(nexus: Run, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(RECIPE.format(copy=copy))
    (tmp_path / "text.txt").write_text("Return the first item of the list.\n" * 20)
    shown = nexus("merge", tmp_path / "r.yml", tmp_path / "out", "--text", tmp_path / "text.txt")
    assert (shown.status, shown.err) == (0, "")
    assert "merge task_arithmetic: R1 (promised R3)" in shown.out and "bits per byte" in shown.out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out") is not None
    again = nexus("merge", tmp_path / "r.yml", tmp_path / "json", "--to", "nexus", "--json")
    assert again.json["tier"] == "R1" and len(again.json["evidence"]) == 2


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("merge_method: [", "not YAML"),
        ("merge_method: linear\nmodels: []\n", "models must be a list"),
        (f"merge_method: linear\nmodels: [{{model: {TRAINED}}}]\n", "linear needs the parameter 'weight'"),
        (f"merge_method: linear\nmodels: [{{model: {DATA / 'none'}}}]\n", "no such directory"),
        (None, "no such file"),
    ],
)
def test_what_is_wrong_is_one_line(recipe: str | None, message: str, nexus: Run, tmp_path: Path) -> None:
    if recipe is not None:
        (tmp_path / "r.yml").write_text(recipe)
    shown = nexus("merge", tmp_path / "r.yml", tmp_path / "out")
    assert shown.status == 2 and message in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(nexus: Run, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(RECIPE.format(copy=copy))
    shown = nexus("merge", tmp_path / "r.yml", copy)
    assert shown.status == 2 and "is not empty" in shown.err
