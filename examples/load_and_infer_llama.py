"""Build a Llama from its n, save it as a HuggingFace checkpoint, load it back, and decode token by token with a cache.

A path or repo id of a real checkpoint may be given instead:

    python examples/load_and_infer_llama.py [path or repo id]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer

TINY_LLAMA_3 = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "max_position_embeddings": 4096,
}


def main(source: str | None = None) -> list[int]:
    """Print n and greedy ids; returns the ids."""
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            source = str(Path(scratch) / "tiny-llama")
            torch.manual_seed(0)
            UniversalTransformer(ArchitectureParameter.from_huggingface(TINY_LLAMA_3)).save_pretrained(source)
        model = UniversalTransformer.from_pretrained(source)
    print(model.n.signature)
    print(f"RoPE: base {model.n.rope_base:g}, {model.n.rope_scaling}")

    ids = torch.tensor([[1, 2, 3, 4]])
    cache = model.new_cache()
    chosen: list[int] = []
    with torch.no_grad():
        step = ids
        for _ in range(8):
            logits = model(step, cache=cache, logits_to_keep=1).logits
            step = logits[:, -1].argmax(-1, keepdim=True)
            chosen.append(int(step))
    print(f"greedy ids {chosen}, {cache}")
    return chosen


if __name__ == "__main__":
    main(*sys.argv[1:])
