"""An n whose modules are not built yet is refused by the name of what is missing, never computed wrongly."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from nexus_universal import UniversalTransformer, UniversalTransformerBlock
from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.part import PARTS
from nexus_universal.architecture.program import Branch, Linear, Program, Step, Term, Write
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


def test_every_part_of_a_branch_has_a_module_or_none() -> None:
    """A primitive that is added to n either has its entry in MODULES or is refused with the list of what has."""
    possible = set(type_hints(Branch)["part"].__args__)
    assert set(MODULES) <= possible
    refused = {type(branch.part) for branch in first_refused_branches()}
    assert possible - set(MODULES) <= refused | {Linear}


def first_refused_branches() -> list[Branch]:
    """Branches of the hard types whose part has no module."""
    works = (make() for make in WORKS.values())
    found = (branch for n in works for layer in n.layers for _, branch in layer.all_branches())
    return [branch for branch in found if type(branch.part) not in MODULES]


@pytest.mark.parametrize(
    "branch", {type(b.part): b for b in first_refused_branches()}.values(), ids=lambda b: type(b.part).__name__
)
def test_a_part_without_module_is_named_with_what_is_computed(branch: Branch) -> None:
    write = Write(terms=(Term(source="x"), Term(source=branch.name)))
    program = Program(steps=(Step(branches=(branch,), writes=(write,)),))
    name = type(branch.part).__name__
    with pytest.raises(UnsupportedPart, match=rf"no module computes {name} yet \(computed: .*Attention.*\)|share"):
        UniversalTransformerBlock(program, d_model=16)
