"""`nexus analyse`: the table, the JSON and the picture say what the analyser found."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_universal.fusion.study import SemanticWeightAnalyzer
from tests.cli.support import DATA, TRAINED, Result, truncate

Run = Callable[..., Result]


def test_the_table_names_every_tensor(nexus: Run) -> None:
    shown = nexus("analyse", DATA / "glm4_moe_lite_tiny")
    found = SemanticWeightAnalyzer().analyze(DATA / "glm4_moe_lite_tiny")
    assert (shown.status, shown.err) == (0, "") and found.signature in shown.out
    for matrix in found.matrices:
        assert matrix.name.partition("[")[0] in shown.out
    assert "experts.down (mean of 8)" in shown.out and "coherence" in shown.out
    gate = found.of_kind("transformation")[0]
    row = next(line for line in shown.out.splitlines() if line.startswith(gate.name))
    assert f"{gate.rank_90} {gate.rank_95} {gate.rank_99}" in row and f"{gate.stored_95:.2f}" in row


def test_json_is_the_analysers(nexus: Run) -> None:
    shown = nexus("analyse", TRAINED, "--json")
    assert shown.status == 0
    assert shown.json == json.loads(SemanticWeightAnalyzer().analyze(TRAINED).to_json())


def test_a_picture_is_drawn(nexus: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert nexus("analyse", TRAINED, "--plot", tmp_path / "seen.png").status == 0
    assert (tmp_path / "seen.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


def test_without_matplotlib_it_says_what_to_install(
    nexus: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    shown = nexus("analyse", TRAINED, "--plot", tmp_path / "seen.png")
    assert shown.status == 2 and "pip install 'nexus-universal[plot]'" in shown.err and not list(tmp_path.iterdir())


def test_bad_input_is_one_line(nexus: Run, copy: Path, tmp_path: Path) -> None:
    truncate(copy)
    for args in ((copy,), (tmp_path / "nothing",), (TRAINED, "--plot", tmp_path / "no" / "seen.png")):
        shown = nexus("analyse", *args)
        assert (shown.status, shown.out) == (2, "") and shown.err.count("\n") == 1 and shown.err.startswith("nexus: ")
