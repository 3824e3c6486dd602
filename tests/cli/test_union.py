"""`nexus union` and what other commands do with its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_universal.fusion.union.model import NexusUnifiedModel
from tests.cli.support import DATA, TRAINED, Result

Run = Callable[..., Result]
OTHER = DATA / "gemma3_tiny"


def test_two_models_become_one_file(nexus: Run, tmp_path: Path) -> None:
    out = tmp_path / "both.nxu"
    made = nexus("union", f"prose={TRAINED}", f"window={OTHER}", "-o", out, "--capability", "window=agent", "--json")
    assert made.status == 0 and made.json["bytes"] == out.stat().st_size
    assert [each["name"] for each in made.json["models"]] == ["prose", "window"]
    shown = nexus("verify", out)
    assert (shown.status, shown.err) == (0, "")
    assert "R0" in shown.out and "prose: R0" in shown.out
    assert nexus("verify", out, "--json", "-").json["tier"] == "R0"
    settings = ("--prompt", "Return the", "--max-new-tokens", 5, "--greedy")
    for capability, source in (("window", OTHER), ("prose", TRAINED), ("agent", OTHER)):
        found = nexus("generate", out, "--capability", capability, *settings)
        assert (found.out, found.err) == (nexus("generate", source, *settings).out, "")
    by_ids = ("--ids", "5,6,7", "--greedy", "--max-new-tokens", 5)
    assert nexus("generate", out, *by_ids).out == nexus("generate", TRAINED, *by_ids).out
    assert nexus("inspect", out).out.splitlines()[1].startswith("route of prose (d96")
    assert nexus("convert", out, tmp_path / "again", "--capability", "window").status == 0
    assert nexus("generate", tmp_path / "again", *settings).out == nexus("generate", OTHER, *settings).out
    served = nexus("serve", out)
    assert served.status == 2 and "nexus convert" in served.err
    damaged = bytearray(out.read_bytes())
    damaged[-1] ^= 1
    out.write_bytes(damaged)
    refused = nexus("verify", out)
    assert refused.status == 2 and "window: " in refused.err and refused.err.count("\n") == 1


def test_without_a_capability_the_router_chooses(nexus: Run, tmp_path: Path) -> None:
    out = tmp_path / "both.nxu"
    nexus("union", f"prose={TRAINED}", f"window={OTHER}", "-o", out)
    unified, chosen = NexusUnifiedModel(out), {}
    for prompt in ("Return the", "If the file is open, a line of text", "def __init__(self, name):", "    raise"):
        route = unified.router.choose(prompt)
        chosen.setdefault(route.name if route.reason == "bits_per_byte" else "", prompt)
        source = {"prose": TRAINED, "window": OTHER}[route.name]
        settings = ("--prompt", prompt, "--max-new-tokens", 5, "--greedy")
        found = nexus("generate", out, *settings)
        assert found.out == nexus("generate", source, *settings).out
        assert found.err.startswith(f"{route.name} answers: ") and found.err.count("\n") == 1
    assert {"prose", "window"} <= chosen.keys()
    refused = nexus("generate", out, "--prompt", chosen["prose"], "--prompt", chosen["window"])
    assert refused.status == 2 and "prompts are for several models" in refused.err and refused.err.count("\n") == 1


def test_a_table_says_what_was_shared(nexus: Run, tmp_path: Path) -> None:
    shown = nexus("union", TRAINED, TRAINED, "--out", tmp_path / "twice.nxu")
    first, second = (line.split() for line in shown.out.splitlines()[1:3])
    assert (first[0], second[0], second[2], second[-1]) == ("qwen3_tiny", "qwen3_tiny_2", "46", "0")
    assert "of the sum · R0" in shown.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["union", f"a={TRAINED}", OTHER, "-o", "x.nxu"], "give every model a name of its own"),
        (["union", TRAINED, "-o", "x.nxu", "--capability", "agent"], "must be NAME=WHAT"),
        (["union", TRAINED, "-o", "x.nxu", "--capability", "qwen3_tiny=fly"], "capability 'fly' (known: reasoning"),
        (["union", "./nowhere", "-o", "x.nxu"], "nowhere"),
        (["generate", TRAINED, "--capability", "code", "--prompt", "a"], "and .*qwen3_tiny is none"),
    ],
)
def test_bad_input_is_one_line(args: list[object], message: str, nexus: Run, tmp_path: Path) -> None:
    import re

    args = [tmp_path / "x.nxu" if arg == "x.nxu" else arg for arg in args]
    refused = nexus(*args)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert re.search(message.replace("(", r"\("), refused.err)
    assert not list(tmp_path.iterdir())


def test_a_union_is_no_checkpoint(nexus: Run, tmp_path: Path) -> None:
    nexus("union", TRAINED, "-o", tmp_path / "one.nxu")
    refused = nexus("verify", tmp_path / "one.nxu", "--draws", 3)
    assert refused.status == 2 and "is a union: it is held to its own hashes" in refused.err
    assert (
        nexus("inspect", tmp_path / "one.nxu", "--json").json["hash"]
        == nexus("inspect", TRAINED, "--json").json["hash"]
    )
    hub = nexus("generate", tmp_path / "one.nxu", "--revision", "main", "--ids", "1,2")
    assert hub.status == 2 and "speaks of a repo on the hub" in hub.err
    missing = nexus("generate", tmp_path / "one.nxu", "--capability", "code", "--ids", "1,2")
    assert missing.status == 2 and "branch 'code' (known: qwen3_tiny)" in missing.err
