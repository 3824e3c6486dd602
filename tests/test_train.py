"""`scripts/train.py`: the same losses on any number of processes, and checkpoints that are whole or not there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import UniversalTransformer, families
from nexus_universal.checkpoint.load import slots
from tests.cli.support import TRAINED
from tests.helpers import ROOT
from tests.integrations.processes import free_port
from tests.test_docs import module_at

SCRIPT = ROOT / "scripts" / "train.py"
SOON = 90
CLOSE = 1e-5
"""In float64 the losses of two processes differ by rounding alone, which norms do to float32; six steps of Adam, which
divides by the gradients' own size, carry that on by some factors of ten."""


@pytest.fixture(scope="module")
def script() -> Any:
    return module_at(SCRIPT)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """A small model, a text, four steps and a checkpoint every two."""
    n = families.find("qwen3").parameter({"model_type": "qwen3", **families.find("qwen3").tiny, "vocab_size": 1024})
    (tmp_path / "n.json").write_text(n.to_json())
    (tmp_path / "text.txt").write_text((ROOT / "README.md").read_text())
    given = {
        "--from-n": tmp_path / "n.json",
        "--tokenizer": TRAINED,
        "--text": tmp_path / "text.txt",
        "--out": tmp_path / "out",
    }
    given |= {"--steps": 4, "--batch": 4, "--context": 16, "--save-every": 2, "--rate": 1e-2, "--dtype": "float64"}
    return [str(piece) for pair in given.items() for piece in pair]


def losses(text: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in re.findall(r"step (\d+)/\d+ +loss (\S+)", text)}


def ranks(*args: str, world: int = 2) -> subprocess.Popen[str]:
    job = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(world),
        "--master-port",
        str(free_port()),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*job, str(SCRIPT), *args], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_what_was_interrupted_goes_on_as_if_it_had_not_been(
    script: Any, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert script.main(asked) == 0
    through = losses(capsys.readouterr().out)
    assert list(through) == [1, 2, 3, 4] and through[4] < through[1]
    assert [folder.name for folder in script.checkpoints(out)] == ["step-000002", "step-000004"]
    whole = slots(UniversalTransformer.from_pretrained(out / "step-000004"))
    (out / "step-000004").rename(tmp_path / "aside")
    (out / ".step-000003.part").mkdir()
    assert script.main(asked) == 0
    again = losses(capsys.readouterr().out)
    assert again == {step: loss for step, loss in through.items() if step > 2}
    assert not list(out.glob(".*"))
    for name, tensor in slots(UniversalTransformer.from_pretrained(out / "step-000004")).items():
        assert torch.equal(tensor, whole[name]), name


def test_a_checkpoint_that_was_not_finished_is_none(
    script: Any, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies when weights are written and moments are not."""
    written = script.save_file

    def dying(tensors: Any, path: Path) -> None:
        if "step-000004" in str(path):
            raise KeyboardInterrupt
        written(tensors, path)

    monkeypatch.setattr(script, "save_file", dying)
    with pytest.raises(KeyboardInterrupt):
        script.main(asked)
    (last,) = script.checkpoints(tmp_path / "out")
    assert last.name == "step-000002"
    UniversalTransformer.from_pretrained(last)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--text", "/no/such/file"], "/no/such/file: cannot be read as text"),
        (["--context", "100000"], "too few for a context of 100000"),
        (["--from-n", "/no/such/n.json"], "/no/such/n.json: No such file"),
        (["--tokenizer", "/no/such/place"], "/no/such/place: no such directory"),
    ],
)
def test_bad_input_is_one_line(
    changes: list[str], words: str, script: Any, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([*asked, *changes]) == 2
    told = capsys.readouterr().err
    assert told.startswith("train: ") and words in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--tensor-parallel", "2"], "--tensor-parallel must be 1 or the 1 processes"),
    ],
)
def test_a_wrong_option_is_refused(
    changes: list[str], words: str, script: Any, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        script.main([*asked, *changes])
    assert words in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("way", [[], ["--tensor-parallel", "2"]], ids=["sharded", "tensor parallel"])
def test_two_processes_have_the_losses_of_one(
    way: list[str], script: Any, asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what two have written, one goes on from."""
    asked = [*asked, "--steps", "6"]
    assert script.main([*asked, "--out", str(tmp_path / "alone")]) == 0
    alone = losses(capsys.readouterr().out)
    told, errors = (job := ranks(*asked, *way)).communicate(timeout=SOON)
    assert job.returncode == 0, errors
    together = losses(told)
    assert together.keys() == alone.keys()
    assert max(abs(together[step] - alone[step]) for step in alone) < CLOSE
    (tmp_path / "out" / "step-000006").rename(tmp_path / "aside")
    assert script.main(asked) == 0
    resumed = losses(capsys.readouterr().out)
    assert resumed.keys() == {5, 6} and max(abs(resumed[step] - alone[step]) for step in resumed) < CLOSE


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_and_leaves_a_checkpoint(script: Any, asked: list[str], tmp_path: Path) -> None:
    out, port = tmp_path / "out", str(free_port())
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *asked, "--steps", "100000"],
            cwd=ROOT,
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    began = time.monotonic()
    while not script.checkpoints(out) and time.monotonic() - began < SOON:
        time.sleep(0.05)
    jobs[1].send_signal(signal.SIGKILL)
    _, errors = jobs[0].communicate(timeout=SOON)
    jobs[1].communicate()
    assert jobs[0].returncode == 2
    assert [line[:33] for line in errors.splitlines() if line.startswith("train: ")] == [
        "train: another rank ended, or did"
    ]
    assert "Traceback" not in errors
    for folder in script.checkpoints(out):
        UniversalTransformer.from_pretrained(folder)
    assert script.checkpoints(out)
