"""`--revision` reaches the hub, which is played by a directory per revision here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.cli.support import TRAINED, Result, change_config

Run = Callable[..., Result]
REPO = "owner/name"
IDS = ["--ids", "1,2,3", "--max-new-tokens", "2"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A repo whose revision `old` has another rope_theta; lists what was asked for (file or `*`, revision)."""
    for name in ("main", "old"):
        shutil.copytree(TRAINED, tmp_path / name)
    change_config(tmp_path / "old", rope_theta=5000.0, rope_parameters=None)
    asked: list[tuple[str, str | None]] = []

    def download(repo: str, file: str, *, revision: str | None = None) -> str:
        assert repo == REPO
        asked.append((file, revision))
        return str(tmp_path / (revision or "main") / file)

    def snapshot(repo: str, *, allow_patterns: list[str], revision: str | None = None) -> str:
        assert repo == REPO and allow_patterns
        asked.append(("*", revision))
        return str(tmp_path / (revision or "main"))

    own = AutoTokenizer.from_pretrained

    def tokenizer(source: str, *, revision: str | None = None, **settings: Any) -> Any:
        asked.append(("tokenizer", revision))
        return own(tmp_path / (revision or "main"), **settings)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", tokenizer)
    return asked


Hub = list[tuple[str, str | None]]


def test_inspect_reads_the_config_of_a_revision(hub: Hub, nexus: Run, tmp_path: Path) -> None:
    old = nexus("inspect", REPO, "--revision", "old", "--json").json
    assert hub == [("config.json", "old")]
    assert old["hash"] == nexus("inspect", tmp_path / "old", "--json").json["hash"]
    assert old["hash"] != nexus("inspect", REPO, "--json").json["hash"]
    assert hub[1:] == [("config.json", None)]


def test_diff_takes_one_for_both_or_one_each(hub: Hub, nexus: Run) -> None:
    shown = nexus("diff", REPO, REPO, "--revision", "main", "--revision", "old", "--json")
    assert hub == [("config.json", "main"), ("config.json", "old")]
    assert [(row["a"], row["b"]) for row in shown.json["differences"] if "theta" in row["path"]] == [
        (1000000.0, 5000.0)
    ]
    assert nexus("diff", REPO, REPO, "--revision", "old", "--json").json["equal"]
    assert nexus("diff", TRAINED, REPO, "--revision", "main", "--json").json["equal"]
    assert not nexus("diff", REPO, TRAINED, "--revision", "old", "--json").json["equal"]


@pytest.mark.parametrize("text", [["--prompt", "Create a new", "--max-new-tokens", "2"], IDS])
def test_generate_takes_weights_and_tokenizer_of_a_revision(text: list[str], hub: Hub, nexus: Run) -> None:
    assert nexus("generate", REPO, *text, "--revision", "old").status == 0
    tokenizer = [("tokenizer", "old")] if text != IDS else []
    assert hub == [*tokenizer, ("*", "old")]


def test_chat_takes_weights_and_tokenizer_of_a_revision(hub: Hub, nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", [])
    monkeypatch.setattr("nexus_universal.cli.chat._lines", lambda: iter(()))
    assert nexus("chat", REPO, "--revision", "old").status == 0
    assert hub == [("tokenizer", "old"), ("*", "old")]


def test_convert_writes_a_revision(hub: Hub, nexus: Run, tmp_path: Path) -> None:
    assert nexus("convert", REPO, tmp_path / "out", "--revision", "old").status == 0
    assert hub == [("*", "old")]
    assert nexus("diff", tmp_path / "out", tmp_path / "old", "--json").json["equal"]


def test_verify_proves_a_revision(hub: Hub, nexus: Run) -> None:
    assert nexus("verify", REPO, "--revision", "old").status == 0
    assert hub == [("*", "old")]


@pytest.mark.parametrize(
    "args",
    [
        ["inspect", TRAINED],
        ["inspect", TRAINED / "config.json"],
        ["inspect", "qwen3"],
        ["inspect", "--family", "qwen3"],
        ["diff", TRAINED, "qwen3"],
        ["diff", TRAINED, REPO, "--revision", "old"],
        ["generate", TRAINED, *IDS],
        ["chat", TRAINED],
        ["convert", TRAINED, "out"],
        ["verify", TRAINED],
        ["verify", "--family", "qwen3"],
    ],
    ids=lambda args: " ".join(map(str, args))[-40:],
)
def test_what_is_no_repo_has_no_revision(args: list[Any], hub: Hub, nexus: Run) -> None:
    shown = nexus(*args, "--revision", "old")
    assert shown.status == 2 and shown.err.count("\n") == 1
    assert "--revision old speaks of a repo on the hub, and" in shown.err and hub == []


def test_more_revisions_than_sides(nexus: Run) -> None:
    shown = nexus("diff", REPO, REPO, *["--revision", "x"] * 3)
    assert (shown.status, shown.err) == (2, "nexus: --revision is given 3 times, and there are two sides\n")
