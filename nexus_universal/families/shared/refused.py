"""Causal language models of transformers that are refused, and why; `nexus families --why` and the docs show it."""

from __future__ import annotations

DRAFTS = "drafts from the keys and values of a Gemma 4: alone it is no language model"
CODEBOOKS = "reads several codebooks per position and gives a token for each: n has one table and one head"

REFUSED: dict[str, str] = {
    "gemma4_assistant": DRAFTS,
    "gemma4_unified_assistant": DRAFTS,
    "musicgen": CODEBOOKS,
    "musicgen_melody": CODEBOOKS,
    "reformer": "hashes queries and keys by numbers drawn anew in every call: there is no exact reference to hold it to",
}
"""By model type, in words that can follow its name."""
