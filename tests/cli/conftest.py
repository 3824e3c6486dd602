"""A command line run in this process, and a checkpoint to damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_universal.cli import run
from tests.cli.support import TRAINED, Result


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run one command line."""

    def ran(*args: object) -> Result:
        capsys.readouterr()
        status = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return ran


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a trained checkpoint, to damage."""
    return Path(shutil.copytree(TRAINED, tmp_path / "copy"))
