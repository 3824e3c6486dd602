"""Stop strings: does the text of the ids so far contain one that the last token completes or overlaps?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError

PREFIX = "abcdef"


class StopStrings:
    """True for rows whose last token completes a stop string, wherever that begins; a prompt's end may begin it.

    Tokens are compared by the bytes they stand for, so that a stop string may begin or end within a character that two
    tokens share, or within a token. `tokenizer` is any of transformers'.
    """

    def __init__(self, strings: Sequence[str], tokenizer: Any) -> None:
        if tokenizer is None:
            raise InputError("stop_strings need the tokenizer: pass tokenizer=")
        self.tokenizer = tokenizer
        self.mode = _mode(tokenizer)
        self.targets: list[Any] = [string.encode() if self.mode else string for string in strings]
        self.window = max(len(target) for target in self.targets)
        self.known: dict[int, Any] = {}

    def __call__(self, ids: Int[Tensor, "batch seq"]) -> Bool[Tensor, " batch"]:
        """Look at the end of every row."""
        rows = ids[:, -self.window :].tolist()
        return torch.tensor([self.matches(row) for row in rows], dtype=torch.bool, device=ids.device)

    def matches(self, ids: Sequence[int]) -> bool:
        """Whether the last of `ids` completes a stop string."""
        pieces = [self.piece(token) for token in ids[-self.window :]]
        unknown = [place for place, piece in enumerate(pieces) if piece is None]
        pieces = pieces[unknown[-1] + 1 :] if unknown else pieces
        if not pieces:
            return False
        text = pieces[0][:0].join(pieces)
        # Only what ends within the last token counts: anything earlier was looked at before, or stood in the prompt.
        return any(target in text[-(len(pieces[-1]) + len(target) - 1) :] for target in self.targets if pieces[-1])

    def piece(self, token: int) -> Any:
        """What a token stands for, as bytes (text, if the tokenizer knows no bytes); None if there is no such id."""
        if token not in self.known:
            self.known[token] = self._piece(token)
        return self.known[token]

    @cached_property
    def prefix(self) -> list[str]:
        """Known tokens to stand in front of another, lest the tokenizer drop that one's leading space."""
        return self.tokenizer.convert_ids_to_tokens(self.tokenizer(PREFIX, add_special_tokens=False)["input_ids"])

    def _piece(self, token: int) -> Any:
        name = self.tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return None
        if self.mode == "byte_level" and all(char in byte_of_character() for char in name):
            return bytes(byte_of_character()[char] for char in name)
        if self.mode == "byte_fallback" and len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            try:
                return bytes([int(name[3:5], 16)])
            except ValueError:
                pass
        text = self.tokenizer.convert_tokens_to_string([*self.prefix, name])
        text = text[text.index(PREFIX) + len(PREFIX) :]
        return text.encode() if self.mode else text


@cache
def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level tokenizers: printable Latin-1 stands for itself, the other bytes for U+0100 and on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + at): byte for at, byte in enumerate(others)}


def _mode(tokenizer: Any) -> str | None:
    """How tokens stand for bytes: "byte_level", "byte_fallback" (tokens such as <0x0A>), or None for plain text."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return None
    if type(decoder).__name__ == "ByteLevel":
        return "byte_level"
    state = getattr(decoder, "__getstate__", lambda: None)()
    try:
        types = _types(json.loads(state)) if isinstance(state, str | bytes) else set()
    except json.JSONDecodeError:
        types = set()
    return "byte_fallback" if "ByteFallback" in types else "byte_level" if "ByteLevel" in types else None


def _types(config: Any) -> set[str]:
    if isinstance(config, dict):
        own = {config["type"]} if isinstance(config.get("type"), str) else set()
        return own.union(*map(_types, config.values()))
    return set().union(*map(_types, config)) if isinstance(config, list) else set()
