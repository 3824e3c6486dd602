"""The command line, `nexus`. What needs no torch imports none, so that help and `inspect` answer at once."""

from nexus_universal.cli.app import main, run

__all__ = ["main", "run"]
