"""`nexus plan`: what fits where, from n alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cli.support import TRAINED, Result

Run = Callable[..., Result]


def test_the_figures_are_those_of_the_checkpoint(nexus: Run) -> None:
    """Its weights, in float32: the file's bytes less the header."""
    shown = nexus("plan", TRAINED, "--gpus", 2, "--memory", "2MB", "--context", 64, "--batch", 3, "--json").json
    alone, split, sharded = shown["layouts"]
    counted = nexus("inspect", TRAINED, "--json", "--context", 64).json["count"]
    assert alone["bytes"]["weights"] == 4 * counted["parameters"] == 4 * shown["parameters"]
    assert alone["bytes"]["cache"] == 3 * 64 * counted["cache_bytes_per_token"]
    assert [each["name"] for each in (alone, split, sharded)] == ["one GPU", "tensor parallel 2", "FSDP 2"]
    assert split["bytes"]["cache"] == alone["bytes"]["cache"] / 2
    assert alone["bytes"]["weights"] / 2 < split["bytes"]["weights"] < 0.51 * alone["bytes"]["weights"]
    assert shown["memory"] == 2_000_000
    assert alone["bytes"]["total"] == sum(size for key, size in alone["bytes"].items() if key != "total")


def test_a_table_says_what_fits_and_what_would_do(nexus: Run) -> None:
    shown = nexus("plan", "--family", "qwen3", "--gpus", 2, "--memory", "24GB", "--dtype", "bfloat16", "--train")
    assert shown.status == 0 and not shown.err
    for words in ("one GPU", "tensor parallel 2", "pipeline 2", "FSDP 2", "optimiser", "none fits: pipeline 2 would"):
        assert words in shown.out, shown.out
    roomy = nexus("plan", "--family", "qwen3", "--memory", "640GB", "--dtype", "bfloat16")
    assert "yes" in roomy.out and "none fits" not in roomy.out and "optimiser" not in roomy.out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--memory", "80QB"], "memory '80QB' must be a number of bytes with its unit, such as 80GB or 40GiB"),
        (["--gpus", 0], "--gpus"),
        (["--batch", 0], "--batch"),
        (["--context", 0], "--context"),
        (["--dtype", "int8"], "--dtype"),
    ],
)
def test_bad_input_is_one_line(args: list[object], words: str, nexus: Run) -> None:
    shown = nexus("plan", TRAINED, *args)
    assert shown.status == 2 and not shown.out
    assert words in shown.err and shown.err.count("\n") == 1
