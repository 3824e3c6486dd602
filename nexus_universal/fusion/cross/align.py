"""One text in the tokens of several models: which of a donor's tokens are read whole where a token of the host ends.

All count in bytes of UTF-8. Where a tokenizer splits a character, or tells nothing of where a token ends, the host's
tokens are taken to end as early, and the donor's as late as may be: no position sees more than its own text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.layers.memories import DonorInput

Span = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """What a call reads: the host's ids, pads marked by 0, and what donors read that have tokens of their own."""

    input_ids: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch seq"] | None = None
    donors: Mapping[str, DonorInput] | None = None

    @property
    def call(self) -> dict[str, Any]:
        """As the model's arguments."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "donors": self.donors}


def earliest_ends(text: str, spans: Sequence[Span]) -> list[int]:
    """How many bytes are surely read after each token: of a split character none before its last token."""
    ends = []
    for (start, end), (next_start, next_end) in pairwise([*spans, (len(text), len(text))]):
        splits = next_start < end and next_start < next_end
        ends.append(_bytes(text, start if splits else end))
    return list(accumulate(ends, max))


def latest_ends(text: str, spans: Sequence[Span]) -> list[int]:
    """How many bytes a token may have read at most: an empty span (white space) goes on to the next one."""
    following, ends = len(text), []
    for index in range(len(spans) - 1, -1, -1):
        start, end = spans[index]
        behind_all = end == 0 and all(span == (0, 0) for span in spans[index:])
        ends.append(end if end > start or behind_all else following)
        following = start if end > start else following
    return list(accumulate((_bytes(text, end) for end in reversed(ends)), max))


def _bytes(text: str, characters: int) -> int:
    return len(text[:characters].encode())


def read_counts(host_ends: Sequence[int], donor_ends: Sequence[int]) -> list[int]:
    """How many of the donor's tokens are read whole where each of the host's ends; both ascend."""
    return [bisect_right(donor_ends, end) for end in host_ends]


def aligned(texts: Sequence[str], host: Callable[..., Any], **donors: Callable[..., Any]) -> Batch:
    """Texts in the host's tokens and in those of each donor, by name, padded behind.

    Tokenizers are fast ones of transformers, or anything that is called like them and gives offsets.

    Example:
        >>> batch = aligned(["def f(x):"], host_tokenizer, donor=donor_tokenizer)
        >>> model(**batch.call).logits

    Raises:
        InputError: a tokenizer that does not say where its tokens lie.
    """
    ours = [_encoded(host, text) for text in texts]
    ids, mask = _padded([row for row, _ in ours])
    reads: dict[str, DonorInput] = {}
    for name, tokenizer in donors.items():
        theirs = [_encoded(tokenizer, text) for text in texts]
        counts = [
            read_counts(earliest_ends(text, own), latest_ends(text, other))
            for text, (_, own), (_, other) in zip(texts, ours, theirs, strict=True)
        ]
        donor_ids, donor_mask = _padded([row for row, _ in theirs])
        reads[name] = DonorInput(input_ids=donor_ids, read=_padded(counts)[0], attention_mask=donor_mask)
    return Batch(ids, mask, reads or None)


def _encoded(tokenizer: Callable[..., Any], text: str) -> tuple[list[int], list[Span]]:
    try:
        found = tokenizer(text, return_offsets_mapping=True)
    except NotImplementedError:
        raise InputError(
            f"{type(tokenizer).__name__} does not say where its tokens lie: a fast tokenizer does"
        ) from None
    return list(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]]


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
