"""Causal language models of transformers that are refused, and why; `nexus families --why` and the docs show it."""

from __future__ import annotations

DRAFTS = "drafts from the keys and values of a Gemma 4: alone it is no language model"
CODEBOOKS = "reads several codebooks per position and gives a token for each: n has one table and one head"

REFUSED: dict[str, str] = {
    "blt": "reads bytes in patches that a second model cuts where it is unsure: no step of n is as long as that says",
    "cpmant": "sees the whole text from each of its positions, and generates from prompts of its own",
    "gemma4_assistant": DRAFTS,
    "gemma4_unified_assistant": DRAFTS,
    "musicgen": CODEBOOKS,
    "musicgen_melody": CODEBOOKS,
    "prophetnet": "gives other logits with a cache than without: there is no one function to hold to",
    "reformer": "hashes queries and keys by numbers drawn anew in every call: there is no exact reference to hold to",
    "xlm": "generates by filling in a mask token behind the text, and does not hide pads where it is causal",
    "xlnet": "sees later tokens as published, and generates by filling in a token behind the text",
    "xmod": "has an adapter for each language, which its config names and chooses: no table of names can list them",
}
"""By model type, in words that can follow its name."""
