"""Try every mutant of every family's n, and write the scores that docs/MUTATION_SCORE.md shows.

`--shard i/k` takes every k-th family, so that several processes can share the work. The file they write,
`nexus_universal/parity/mutants.json`, is data: never edited by hand.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from ledger import enter

from nexus_universal import families
from nexus_universal.parity.bench import FalseProof
from nexus_universal.parity.mutants import mutation_score

ROOT = Path(__file__).resolve().parent.parent
SCORES = ROOT / "nexus_universal" / "parity" / "mutants.json"


def main() -> int:
    """Score and write; exit status 1 if a family has too few of its mutants noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="*", help="these model types only; the others keep their entries")
    parser.add_argument("--shard", default="1/1", help="i/k: the i-th of k shares of the families")
    arguments = parser.parse_args()
    index, count = map(int, arguments.shard.split("/"))
    torch.set_num_threads(1)
    weak = []
    for model_type in (arguments.only or families.model_types())[index - 1 :: count]:
        start = time.perf_counter()
        try:
            score = mutation_score(model_type)
        except FalseProof as error:
            print(error, flush=True)
            weak.append(model_type)
            continue
        enter(SCORES, {score.family: score.to_data()})
        left = [outcome.title for outcome in (*score.of("survived"), *score.of("crashed"))]
        took = time.perf_counter() - start
        print(f"{model_type}: {score.noticed:.1%} of {score.alive}, {took:.0f} s", *left, sep="\n  ", flush=True)
        if not score.enough:
            weak.append(model_type)
    return bool(weak)


if __name__ == "__main__":
    raise SystemExit(main())
