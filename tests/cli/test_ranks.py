"""`nexus` under torchrun: the ranks share one model, the first prints, and none waits for one that is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.cli.support import TRAINED, Result
from tests.helpers import ROOT
from tests.integrations.processes import free_port

Run = Callable[..., Result]
SOON = 60


def start(*args: object, rank: int, port: int, world: int = 2) -> subprocess.Popen[str]:
    """One rank of a job, with the environment that torchrun gives it."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **{key: str(value) for key, value in told.items()}}
    command = [sys.executable, "-m", "nexus_universal", *map(str, args)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--greedy"], ["--sample", "--seed", 3, "--json"]], ids=["greedy", "sampled"])
def test_torchrun_writes_the_text_of_one_process(options: list[Any], nexus: Run) -> None:
    asked = ["generate", TRAINED, "--prompt", "Return the", "--max-new-tokens", 24, *options]
    job = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    done = subprocess.run(
        [*map(str, job), "-m", "nexus_universal", *map(str, asked)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == nexus(*asked).out


@pytest.mark.slow
def test_a_rank_does_not_outlive_one_that_was_killed() -> None:
    """The other is killed amidst a long text: a line, status 2, and no waiting for it."""
    port = free_port()
    asked = ["generate", TRAINED, "--prompt", "Return", "--sample", "--seed", 1, "--max-new-tokens", 400, "--stream"]
    first, second = (start(*asked, rank=rank, port=port) for rank in (0, 1))
    assert first.stdout is not None
    assert first.stdout.read(1)
    second.send_signal(signal.SIGKILL)
    began = time.monotonic()
    _, told = first.communicate(timeout=SOON)
    second.communicate()
    assert first.returncode == 2 and time.monotonic() - began < SOON
    assert told.startswith("nexus: another rank ended") and told.count("\n") == 1, told


def test_a_conversation_needs_one_process(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = nexus("chat", TRAINED)
    assert shown == Result(2, "", "nexus: nexus chat runs in one process: start it without torchrun\n")


def test_what_another_rank_says_bears_its_number(nexus: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert nexus("generate", TRAINED).err.startswith("nexus (rank 1): give either --prompt")
