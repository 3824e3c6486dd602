"""Which lines of the reference's forward passes a proof has run through."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any


@dataclass
class LineCoverage:
    """Lines of the `forward` methods and free functions that a reference's own file holds for its causal model."""

    wanted: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    file: str = ""

    @property
    def share(self) -> float:
        """Fraction of the wanted lines that ran."""
        return len(self.wanted & self.seen) / len(self.wanted) if self.wanted else 1.0

    @property
    def missed(self) -> list[int]:
        """Line numbers that never ran."""
        return sorted(self.wanted - self.seen)


def forward_lines(model: Any) -> LineCoverage:
    """The lines to be covered: every forward of a module of `model` that is defined in the model's own file."""
    file = inspect.getsourcefile(type(model)) or ""
    coverage = LineCoverage(file=file)
    for cls in {type(module) for module in model.modules()}:
        forward = inspect.unwrap(cls.forward)
        if getattr(forward, "__code__", None) is not None and forward.__code__.co_filename == file:
            coverage.wanted |= _lines(forward.__code__)
    return coverage


def _lines(code: CodeType) -> set[int]:
    return {line for _, _, line in code.co_lines() if line is not None and line != code.co_firstlineno}


@contextlib.contextmanager
def recorded(coverage: LineCoverage) -> Iterator[None]:
    """Record lines of the coverage's file while the body runs."""

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            coverage.seen.add(frame.f_lineno)
        return local

    def entry(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename == coverage.file else None

    before = sys.gettrace()
    sys.settrace(entry)
    try:
        yield
    finally:
        sys.settrace(before)
