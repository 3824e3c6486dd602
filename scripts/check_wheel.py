"""Check an installed wheel from outside the repository: what it ships, that it loads a checkpoint and generates.

Usage: python scripts/check_wheel.py tests/data/qwen3_tiny
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

import nexus_universal
from nexus_universal import UniversalTransformer


def check(checkpoint: Path) -> str:
    """Raise if the package is not the installed one or is incomplete; return a line that says what was done."""
    package = Path(nexus_universal.__file__).resolve().parent
    if not package.is_relative_to(Path(sys.prefix).resolve()):
        raise SystemExit(f"nexus_universal comes from {package}, not from the environment at {sys.prefix}")
    version = importlib.metadata.version("nexus-universal")
    if version != nexus_universal.__version__:
        raise SystemExit(f"the wheel says version {version}, the package {nexus_universal.__version__}")
    if not (package / "py.typed").is_file():
        raise SystemExit("the wheel lacks py.typed")

    model = UniversalTransformer.from_pretrained(checkpoint, dtype="auto", device="cpu")
    prompt = torch.tensor([[40, 41, 42, 43]])
    ids = model.generate(prompt, max_new_tokens=8, do_sample=False)
    if ids.shape[0] != 1 or not 4 < ids.shape[1] <= 12 or not torch.equal(ids[:, :4], prompt):
        raise SystemExit(f"generate returned {ids.tolist()} for {prompt.tolist()}")
    return f"nexus-universal {version}: {checkpoint.name} loads and generates {ids[0, 4:].tolist()}"


def main() -> None:
    """Read the command line and check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="directory of a checkpoint")
    print(check(parser.parse_args().checkpoint.resolve()))


if __name__ == "__main__":
    main()
