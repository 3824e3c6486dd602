"""One progress bar, shown only when a task takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator

PATIENCE_S = 2.0


def with_progress(size_of: Callable[[str], int], *, label: str = "loading") -> Callable[[Iterable[str]], Iterable[str]]:
    """Wrap a list of names: bytes done, bytes in all and time left appear on stderr once two seconds have passed."""

    def watched(names: Iterable[str]) -> Iterator[str]:
        todo = list(names)
        sizes = [size_of(name) for name in todo]
        started, done = time.monotonic(), 0
        bar = None
        try:
            for name, size in zip(todo, sizes, strict=True):
                yield name
                done += size
                if bar is None and time.monotonic() - started > PATIENCE_S and sys.stderr.isatty():
                    bar = _bar(label, sum(sizes))
                if bar is not None:
                    bar[0].update(bar[1], completed=done)
        finally:
            if bar is not None:
                bar[0].stop()

    return watched


def _bar(label: str, total: int):  # type: ignore[no-untyped-def]
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    progress.start()
    return progress, progress.add_task(label, total=total)
