"""The trained checkpoints, and the text that tests' tokenizers are made from."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
CHECKPOINTS = sorted(path.parent.name for path in DATA.glob("*/config.json"))

TEXT = [
    "Return the absolute value of the argument.",
    "stop here, stopping at the top: the stopper stops. Größe naïve café 日本語 emoji 🎉🎊",
    "def main(args): return 0  # comment, abcdef\n\n\tindented",
]
KINDS = ("byte_level", "byte_fallback", "plain")
