"""`nexus verify`: the exit status and the files say what the certificate says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_universal.parity import verify as parity
from nexus_universal.parity.certificate import Certificate, ModeRow
from tests.cli.support import TRAINED, Result

Run = Callable[..., Result]


def certificate(verdict: Any) -> Certificate:
    rows = [ModeRow("prefill"), ModeRow("chunks", verdict=verdict, max_difference=0.25, floor=0.125, kl=0.5, flips=3)]
    return Certificate("subject", "llama", "d48 · #0", "float32", rows=rows)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Any]]:
    """Stand in for the proof: give a certificate of this verdict, and keep what was asked for."""

    def stand_in(verdict: str) -> list[Any]:
        calls: list[Any] = []

        def proven(named: object, **settings: Any) -> Certificate:
            settings.pop("progress")("one step")
            calls.append((named, settings))
            return certificate(verdict)

        monkeypatch.setattr(parity, "verify_family", proven)
        monkeypatch.setattr(parity, "verify_checkpoint", proven)
        return calls

    return stand_in


@pytest.mark.parametrize(
    ("verdict", "status"), [("bit-equal", 0), ("within floor", 0), ("inconclusive", 1), ("wrong", 1)]
)
def test_the_status_is_the_verdict(verdict: str, status: int, asked: Any, nexus: Run) -> None:
    asked(verdict)
    for subject in ([TRAINED], ["--family", "llama"]):
        shown = nexus("verify", *subject)
        assert (shown.status, shown.err) == (status, "")
        assert f"{verdict} · {'proven' if status == 0 else 'not proven'}" in shown.out
        row = next(line for line in shown.out.splitlines() if line.startswith("chunks"))
        assert row.split()[-4:] == ["0.25", "0.125", "0.5", "3"] and verdict in row


def test_options_reach_the_proof(asked: Any, nexus: Run) -> None:
    calls = asked("bit-equal")
    nexus("verify", TRAINED, "--seed", 4, "--dtype", "bfloat16", "--ignore-key", "a", "--ignore-key", "b")
    nexus("verify", TRAINED)
    nexus("verify", "--family", "llama", "--draws", 3, "--seed", 9, "--dtype", "bfloat16")
    nexus("verify", "--family", "llama")
    assert calls == [
        (str(TRAINED), {"ignore_keys": ("a", "b"), "dtype": "bfloat16", "seed": 4}),
        (str(TRAINED), {"ignore_keys": (), "dtype": "auto", "seed": 0}),
        ("llama", {"draws": 3, "seed": 9, "dtype": "bfloat16"}),
        ("llama", {"draws": 12, "seed": 0, "dtype": "float32"}),
    ]


def test_certificates_are_written_even_when_not_proven(asked: Any, nexus: Run, tmp_path: Path) -> None:
    asked("wrong")
    files = tmp_path / "c.json", tmp_path / "c.md"
    assert nexus("verify", TRAINED, "--json", files[0], "--markdown", files[1]).status == 1
    assert json.loads(files[0].read_text())["verdict"] == "wrong"
    assert files[1].read_text() == certificate("wrong").to_markdown()
    assert {path.name for path in tmp_path.iterdir()} == {"c.json", "c.md"}
    printed = nexus("verify", TRAINED, "--json", "-")
    assert printed.json == json.loads(certificate("wrong").to_json())
    missing = nexus("verify", TRAINED, "--json", tmp_path / "no" / "c.json")
    assert missing.status == 2 and "cannot be written" in missing.err


def test_a_trained_checkpoint_is_proven(nexus: Run, tmp_path: Path) -> None:
    shown = nexus("verify", TRAINED, "--json", tmp_path / "certificate.json")
    assert (shown.status, shown.err) == (0, "")
    written = json.loads((tmp_path / "certificate.json").read_text())
    assert written["proven"] and written["verdict"] in ("bit-equal", "within floor")
    assert {"prefill", "cached decode", "greedy text"} <= {row["mode"] for row in written["rows"]}


@pytest.mark.slow
def test_a_family_is_proven(nexus: Run) -> None:
    assert nexus("verify", "--family", "llama", "--draws", 2).status == 0
