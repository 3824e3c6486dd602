"""Prove every family and every trained checkpoint, and write the verdicts that `nexus families` and the docs show.

Takes some minutes. The file it writes, `nexus_universal/parity/proven.json`, is data: never edited by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

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


def write(kept: dict[str, Any]) -> None:
    """Keep what was seen so far: a later family that fails takes nothing along."""
    kept["families"] = dict(sorted(kept["families"].items()))
    kept["date"] = date.today().isoformat()
    PROVEN.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Prove and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=14, help="configs per family in float32")
    parser.add_argument("--bf16-draws", type=int, default=6, help="configs per family in bfloat16")
    parser.add_argument("--only", nargs="*", help="these model types only; the others keep their entries")
    arguments = parser.parse_args()

    kept: dict[str, Any] = json.loads(PROVEN.read_text()) if arguments.only and PROVEN.exists() else {"families": {}}
    for model_type in arguments.only or families.model_types():
        print(model_type, flush=True)
        begun = time.monotonic()
        found = verify_family(model_type, draws=arguments.draws)
        kept["families"][model_type] = {"float32": summary(found)}
        borrowed = families.find(model_type).reference
        if borrowed is None or borrowed.rounds_alike:
            half = verify_family(model_type, draws=arguments.bf16_draws, dtype="bfloat16", gradients=False)
            kept["families"][model_type]["bfloat16"] = summary(half)
        kept["versions"] = {k: v for k, v in found.versions.items() if k != "machine"}
        verdicts = {dtype: entry["verdict"] for dtype, entry in kept["families"][model_type].items()}
        print(f"  {verdicts} in {time.monotonic() - begun:.0f} s", flush=True)
        write(kept)
    kept["checkpoints"] = {}
    for name in CHECKPOINTS:
        found = verify_checkpoint(ROOT / "tests" / "data" / name)
        kept["checkpoints"][name] = summary(found)
        print(f"{name}: {found.verdict}", flush=True)
    write(kept)


if __name__ == "__main__":
    main()
