"""Change one axis of n, keep the rest: the same weights under another window, another base, another number of layers.

python examples/swap_architecture.py
"""

from __future__ import annotations

from pathlib import Path

import torch

from nexus_universal import UniversalTransformer
from nexus_universal.checkpoint.load import put

SOURCE = Path(__file__).resolve().parent.parent / "tests" / "data" / "qwen3_tiny"


def with_axis(model: UniversalTransformer, path: str, value: object) -> UniversalTransformer:
    """The same weights under an n that differs in one place."""
    with torch.device("meta"):
        swapped = UniversalTransformer(model.n.replace(path, value))
    weights = dict(model.named_slots())
    for name, _ in list(swapped.named_slots()):
        put(swapped, name, weights[name].detach())
    return swapped.eval()


@torch.no_grad()
def main() -> dict[str, float]:
    """Print, for each change, the diff of n and how far the logits move; returns the distances."""
    model = UniversalTransformer.from_pretrained(SOURCE)
    ids = torch.arange(96)[None] % model.n.d_vocab
    before = model(ids).logits
    moved: dict[str, float] = {}
    for path, value in (
        ("layers.*.mixer.window", 16),
        ("layers.*.mixer.rope.theta", 500000.0),
        ("layers.*.feed_forward.activation", "gelu_tanh"),
        ("layers", model.n.layers[:-1]),
    ):
        swapped = with_axis(model, path, value)
        moved[path] = float((swapped(ids).logits - before).abs().max())
        changes = "; ".join(map(str, model.n.diff(swapped.n)))
        print(f"{changes}\n  logits move by {moved[path]:.3g}")
    return moved


if __name__ == "__main__":
    main()
