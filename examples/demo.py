"""The main job in one run: three trained checkpoints in the one class, each proven against its reference.

Prints what each n is and how two of them differ, and completes a prompt with both sides, token by token equal.

    make demo
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
from rich.console import Console
from rich.table import Table

from nexus_universal import UniversalTransformer
from nexus_universal.generation.text import load_tokenizer
from nexus_universal.parity.references import load_reference, quiet
from nexus_universal.parity.verify import verify_checkpoint

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
CHECKPOINTS = {"Qwen3": "qwen3_tiny", "Gemma 3": "gemma3_tiny", "GLM-4-MoE-lite": "glm4_moe_lite_tiny"}
PROMPT = "Return a new"


def main() -> int:
    """Print everything; returns 1 if anything is not proven or any token differs."""
    console = Console(highlight=False)
    console.print(
        "[bold]Three architectures, one class[/bold]: trained on the docstrings of Python's standard library\n"
    )
    failed = False
    models: dict[str, UniversalTransformer] = {}
    for title, name in CHECKPOINTS.items():
        directory = DATA / name
        model = models[title] = UniversalTransformer.from_pretrained(directory)
        certificate = verify_checkpoint(directory)
        failed |= not certificate.proven

        table = Table(title=f"{title}: {certificate.verdict}", title_justify="left", title_style="bold")
        for column in ("mode", "verdict", "max |Δ|", "floor", "KL", "flips"):
            table.add_column(column)
        for row in certificate.rows:
            numbers = (f"{row.max_difference:.2g}", f"{row.floor:.2g}", f"{row.kl:.2g}", str(row.flips))
            table.add_row(row.mode, row.verdict, *numbers)
        held = sum(law.holds for law in certificate.laws)
        console.print(f"n: {model.n.signature}", soft_wrap=True, markup=False)
        console.print(table)
        console.print(f"laws beyond the reference: {held} of {len(certificate.laws)} hold\n")
        failed |= not _complete(console, directory, model)

    first, second = list(models)[:2]
    console.print(f"\n[bold]What turns {first} into {second}[/bold]")
    for change in models[first].n.diff(models[second].n)[:12]:
        console.print(f"  {change}", soft_wrap=True, markup=False)
    return int(failed)


def _complete(console: Console, directory: Path, model: UniversalTransformer) -> bool:
    """The same prompt completed by ours and by the reference; whether all ids are equal."""
    tokenizer = load_tokenizer(directory)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    ours = model.generate(ids, max_new_tokens=32, do_sample=False)
    with quiet():
        theirs = load_reference(directory, dtype=model.dtype).generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False
        )
    same = torch.equal(ours, theirs)
    text = tokenizer.decode(ours[0, ids.shape[1] :], skip_special_tokens=True)
    console.print(f"{PROMPT}|{text}", soft_wrap=True, markup=False)
    console.print(f"→ {ours.shape[1] - ids.shape[1]} tokens, {'all equal to the reference' if same else 'DIFFERENT'}\n")
    return same


if __name__ == "__main__":
    sys.exit(main())
