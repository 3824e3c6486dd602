"""Where commands write: rich on a terminal, plain wide lines in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.errors import CheckpointError

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 200


def console() -> Console:
    """Standard output. Into a pipe nothing is cut to the width of a terminal that is not there."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_json(data: Any) -> None:
    """Indented JSON, non-ASCII kept."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def write_file(path: Path, text: str) -> None:
    """Write text beside the target and rename it, so that half a file never stands; `-` prints it.

    Raises:
        CheckpointError: the directory does not exist or cannot be written.
    """
    if str(path) == "-":
        print(text)
        return
    beside = path.with_name(path.name + ".part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done on stderr while it is being done; silent unless that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as shown:
        yield shown.update
