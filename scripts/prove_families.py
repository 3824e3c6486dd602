"""Prove every family and every trained checkpoint, and write the verdicts that `nexus families` and the docs show.

Takes some minutes. The file it writes, `nexus_universal/parity/proven.json`, is data: never edited by hand.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from ledger import enter

from nexus_universal import families
from nexus_universal.parity.certificate import Certificate
from nexus_universal.parity.verify import verify_checkpoint, verify_family

ROOT = Path(__file__).resolve().parent.parent
PROVEN = ROOT / "nexus_universal" / "parity" / "proven.json"
CHECKPOINTS = ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")


def summary(certificate: Certificate) -> dict[str, Any]:
    """What is kept of a certificate."""
    return {
        "verdict": certificate.verdict,
        "signature": certificate.signature,
        "modes": {row.mode: asdict(row) for row in certificate.rows},
        "laws": {"held": sum(law.holds for law in certificate.laws), "of": len(certificate.laws)},
        "coverage": certificate.coverage,
        "notes": certificate.notes,
    }


def proven(model_type: str, draws: int, *, half_draws: int) -> dict[str, Any]:
    """What was seen of one family, by precision."""
    entry = {"float32": summary(verify_family(model_type, draws=draws))}
    borrowed = families.find(model_type).reference
    if borrowed is None or borrowed.rounds_alike:
        half = verify_family(model_type, draws=half_draws, dtype="bfloat16", gradients=False)
        entry["bfloat16"] = summary(half)
    return entry


def main() -> int:
    """Prove and write; exit status 1 if a family could not be tried."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=14, help="configs per family in float32")
    parser.add_argument("--bf16-draws", type=int, default=6, help="configs per family in bfloat16")
    parser.add_argument("--only", nargs="*", help="these model types only; the others keep their entries")
    parser.add_argument("--shard", default="1/1", help="i/k: the i-th of k shares of the families")
    arguments = parser.parse_args()
    index, count = map(int, arguments.shard.split("/"))

    failed = []
    for model_type in (arguments.only or families.model_types())[index - 1 :: count]:
        print(model_type, flush=True)
        begun = time.monotonic()
        try:
            entry = proven(model_type, arguments.draws, half_draws=arguments.bf16_draws)
        except Exception as error:  # the others are proven nonetheless
            print(f"  {type(error).__name__}: {error}", flush=True)
            failed.append(model_type)
            continue
        verdicts = {dtype: each["verdict"] for dtype, each in entry.items()}
        print(f"  {verdicts} in {time.monotonic() - begun:.0f} s", flush=True)
        enter(PROVEN, {model_type: entry})
    for name in CHECKPOINTS if index == 1 else ():
        found = verify_checkpoint(ROOT / "tests" / "data" / name)
        enter(PROVEN, {name: summary(found)}, section="checkpoints")
        print(f"{name}: {found.verdict}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
