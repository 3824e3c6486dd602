"""An n whose modules are not built yet is refused by the name of what is missing, never computed wrongly."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import UniversalTransformer, UniversalTransformerBlock
from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.part import PARTS
from nexus_universal.architecture.program import Branch, Linear, Program, Read, Step, Term, Write
from nexus_universal.architecture.serial import type_hints
from nexus_universal.layers.block import MODULES

sys.path.append(str(Path(__file__).parents[1] / "architecture"))
from hard_types import WORKS


@pytest.mark.parametrize("name", WORKS)
def test_a_hard_type_is_built_or_refused_by_name(name: str) -> None:
    n = WORKS[name]()
    try:
        with torch.device("meta"):
            UniversalTransformer(n)
    except UnsupportedPart as error:
        words = set(re.findall(r"\w+", str(error)))
        assert words & {*PARTS}, str(error)
        assert "\n" not in str(error)


def test_every_part_of_a_branch_has_a_module() -> None:
    """A primitive that is added to n has its entry in MODULES."""
    assert set(MODULES) == set(type_hints(Branch)["part"].__args__)


def alone(part: Any, read: Read) -> Program:
    """A program of one branch."""
    branch = Branch(name="branch", part=part)
    return Program(steps=(Step(read=read, branches=(branch,), writes=(Write(terms=(Term(source="branch"),)),)),))


def test_a_part_without_module_is_named_with_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(MODULES, Linear)
    with pytest.raises(UnsupportedPart, match=r"no module computes Linear yet \(computed: .*Attention.*\)"):
        UniversalTransformerBlock(alone(Linear(), Read()), d_model=16)


def test_a_part_that_reads_no_wider_vectors_is_named_with_their_width() -> None:
    wide = Read(registers=("x", "e"), join="concat")
    UniversalTransformerBlock(alone(Linear(), wide), d_model=16)
    with pytest.raises(UnsupportedPart, match=r"no module computes FeedForward of vectors of 32 yet \(computed: 16\)"):
        UniversalTransformerBlock(alone(FeedForward(width=24, activation="silu"), wide), d_model=16)
