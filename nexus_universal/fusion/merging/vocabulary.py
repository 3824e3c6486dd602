"""Token rows of models with different vocabularies, brought together by what the tokens are spelled as."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.source import load_json
from nexus_universal.generation.text import TOKENIZER_FILES, load_tokenizer

TOKEN_ROWS = frozenset({"embedding.tokens.weight", "head.weight", "head.bias"})
"""Tensors that have one row per token."""

TOKENIZER_JSON = "tokenizer.json"
Ids = Mapping[str, int]


@dataclass(frozen=True)
class Vocabulary:
    """The rows of the result: `lead`'s in its own order, then further tokens.

    `rows` says for each model which of its rows a row of the result is, -1 where it lacks the token.
    """

    lead: str
    size: int
    rows: Mapping[str, Int[Tensor, " size"]]
    added: Mapping[str, int]

    def places(self, model: str, *, vocab: int) -> Int[Tensor, " vocab"]:
        """For each row of a model which row of the result it is, -1 where it is left out."""
        index = self.rows[model]
        places = torch.full((vocab,), -1)
        places[index[index >= 0]] = torch.nonzero(index >= 0).squeeze(1)
        return places

    def write_tokenizer(self, directory: Path, sources: Mapping[str, Path]) -> None:
        """Enter the added tokens into the tokenizer in `directory`, which is `lead`'s.

        Text is cut as `lead` cuts it: further tokens take part only where they are special ones.
        """
        if not self.added:
            return
        raw = load_json(directory / TOKENIZER_JSON)
        special = {
            entry["content"]: entry
            for model in self.rows
            for entry in load_json(sources[model] / TOKENIZER_JSON)["added_tokens"]
        }
        for token, place in self.added.items():
            if token in special:
                raw["added_tokens"].append(special[token] | {"id": place})
            else:
                raw["model"]["vocab"][token] = place
        (directory / TOKENIZER_JSON).write_text(json.dumps(raw, ensure_ascii=False, indent=2), encoding="utf-8")


def settle(
    choice: str | None, sources: Mapping[str, Path], sizes: Mapping[str, int], *, multiple: int | None = None
) -> Vocabulary | None:
    """The rows of the result; None where all models have the same ones. The first source is the base.

    `choice` is None (they must agree), "base", "union", or a source's name; `multiple` rounds up the number of rows.

    Raises:
        InputError: vocabularies differ and nothing is chosen, or a tokenizer is missing: by name.
    """
    known = {model: token_ids(directory) for model, directory in sources.items()}
    lead = next(iter(sources)) if choice in (None, "base", "union") else choice
    if choice is None:
        _refuse_different(known, sizes)
        return None
    if lead not in sources:
        raise InputError(f"tokenizer {lead!r} is none of the models ({', '.join(sources)})")
    for model, ids in known.items():
        if ids is None:
            raise InputError(f"{model}: holds no tokenizer, by which its rows could be told")
    told: dict[str, Ids] = {model: ids for model, ids in known.items() if ids is not None}
    added: dict[str, int] = {}
    if choice == "union":
        free = max(told[lead].values()) + 1
        others = (token for ids in told.values() for token in sorted(ids, key=ids.__getitem__))
        new = dict.fromkeys(token for token in others if token not in told[lead])
        added = {token: free + index for index, token in enumerate(new)}
    if added and load_json(sources[lead] / TOKENIZER_JSON)["model"].get("type") != "BPE":
        raise InputError(f"{lead}: tokens can be added to a BPE tokenizer only, without changing how it cuts text")
    size = max(sizes[lead], max(added.values(), default=0) + 1)
    size += -size % (multiple or 1)
    if not added and all(ids == told[lead] for ids in told.values()) and set(sizes.values()) == {size}:
        return None
    result = {**told[lead], **added}
    rows = {model: _rows(ids, result, size=size, vocab=sizes[model]) for model, ids in told.items()}
    kept = torch.arange(sizes[lead])
    rows[lead][: sizes[lead]] = kept
    return Vocabulary(lead=lead, size=size, rows=rows, added=added)


def token_ids(directory: Path) -> Ids | None:
    """Every token's id, as the tokenizer spells it; None where there is no tokenizer."""
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    return _from_json(directory) or load_tokenizer(directory).get_vocab()


def _from_json(directory: Path) -> Ids | None:
    path = directory / TOKENIZER_JSON
    if not path.is_file():
        return None
    raw: dict[str, Any] = load_json(path)
    vocab = raw.get("model", {}).get("vocab")
    if not isinstance(vocab, dict):
        return None
    return vocab | {entry["content"]: entry["id"] for entry in raw.get("added_tokens", [])}


def _rows(ids: Ids, result: Ids, *, size: int, vocab: int) -> Int[Tensor, " size"]:
    rows = torch.full((size,), -1)
    for token, place in result.items():
        row = ids.get(token, -1)
        if row < vocab and place < size:
            rows[place] = row
    return rows


def _refuse_different(known: Mapping[str, Ids | None], sizes: Mapping[str, int]) -> None:
    hint = "tokenizer_source: union (or base) brings rows together by token"
    (first, size), *others = sizes.items()
    for model, other in others:
        if other != size:
            raise InputError(f"{first} has {size} token rows, {model} has {other}: {hint}")
        left, right = known[first], known[model]
        if left is None or right is None or left == right:
            continue
        token, _ = min(set(left.items()) ^ set(right.items()), key=lambda item: (item[1], item[0]))
        sides = f"{left.get(token, 'none')} in {first} and {right.get(token, 'none')} in {model}"
        raise InputError(f"token {token!r} has id {sides}: {hint}")
