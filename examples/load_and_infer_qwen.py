"""Load a Qwen checkpoint into the one class, read its n, and complete a prompt.

python examples/load_and_infer_qwen.py [path or repo id] [prompt]
"""

from __future__ import annotations

import sys
from pathlib import Path

from nexus_universal import UniversalTransformer
from nexus_universal.generation.text import generate_text, load_tokenizer

DEFAULT = Path(__file__).resolve().parent.parent / "tests" / "data" / "qwen3_tiny"


def main(source: str = str(DEFAULT), prompt: str = "Return the") -> str:
    """Print n and the completion; returns the completion."""
    model = UniversalTransformer.from_pretrained(source)
    print(model.n.signature)
    print(model.n.count(context=512))
    tokenizer = load_tokenizer(source)
    completion = generate_text(model, tokenizer, prompt, max_new_tokens=24, seed=0)
    print(f"{prompt}|{completion}")
    return str(completion)


if __name__ == "__main__":
    main(*sys.argv[1:])
