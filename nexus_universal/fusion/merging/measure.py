"""What is left of each source in a merged model, measured on text, or on random tokens where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.merging.vocabulary import Vocabulary
from nexus_universal.fusion.retention import Evidence, bits_per_byte
from nexus_universal.generation.text import load_tokenizer
from nexus_universal.parity.modes import Comparison, compare, sample
from nexus_universal.transformer import UniversalTransformer

LENGTH, ROWS = 256, 8
"""So many tokens are read at a time, and so many times: models differ in how far they can look."""


@torch.no_grad()
def measured(
    merged: Path,
    sources: Mapping[str, Path],
    *,
    lead: str,
    vocabulary: Vocabulary | None = None,
    text: str | None = None,
    dtype: str = "auto",
) -> tuple[Evidence, ...]:
    """Each source's logits beside the merged model's on the same tokens, and bits per byte of `text`, each its own way.

    The merged model reads text as `lead` does. Of different vocabularies those tokens are compared that both have.

    Raises:
        InputError: a text of fewer than two tokens.
    """
    after = UniversalTransformer.from_pretrained(merged, dtype=dtype)
    after_bits = _bits(after, sources[vocabulary.lead if vocabulary else lead], text)
    evidence = []
    for name, directory in sources.items():
        before = UniversalTransformer.from_pretrained(directory, dtype=dtype)
        places = vocabulary.places(name, vocab=before.n.d_vocab) if vocabulary else None
        logits = _compared(before, after, places, tokens_of(before, directory, text))
        bits = _bits(before, directory, text)
        both = None if bits is None or after_bits is None else (bits, after_bits)
        evidence.append(Evidence(source=name, logits=logits, bits_per_byte=both))
    return tuple(evidence)


def tokens_of(model: UniversalTransformer, directory: Path, text: str | None) -> list[Int[Tensor, "1 seq"]]:
    """Tokens in rows of equal length, as this model reads them."""
    length = min(LENGTH, model.n.text.context or LENGTH)
    if text is None:
        length = min(length, 64)
        return list(sample(model.n.d_vocab, length=length, batch=2, seed=0, pad=model.n.text.pad).ids.split(1))
    ids = torch.tensor([load_tokenizer(directory)(text).input_ids])
    if ids.shape[1] < 2:
        raise InputError("the text has fewer than two tokens: nothing is foretold")
    return [row for row in ids[:, : ROWS * length].split(length, dim=1) if row.shape[1] > 1]


def _bits(model: UniversalTransformer, directory: Path, text: str | None) -> float | None:
    """Bits per byte of the text, by this model's own tokens; None without one, or where nothing spells tokens."""
    if text is None:
        return None
    tokenizer = load_tokenizer(directory)
    bits, total = 0.0, 0
    for row in tokens_of(model, directory, text):
        nbytes = max(len(tokenizer.decode(row[0, 1:]).encode()), 1)
        bits += bits_per_byte(model(row).logits, row, nbytes=nbytes) * nbytes
        total += nbytes
    return bits / total


def _compared(
    before: UniversalTransformer,
    after: UniversalTransformer,
    places: Int[Tensor, " vocab"] | None,
    rows: list[Int[Tensor, "1 seq"]],
) -> Comparison | None:
    """All rows' comparisons as one; None where the text has tokens that the result lacks."""
    found = list(_row_by_row(before, after, places, rows))
    if not found:
        return None
    return Comparison(
        equal=all(each.equal for each in found),
        max_difference=max(each.max_difference for each in found),
        max_logit=max(each.max_logit for each in found),
        kl=sum(each.kl for each in found) / len(found),
        flips=sum(each.flips for each in found),
    )


def _row_by_row(
    before: UniversalTransformer,
    after: UniversalTransformer,
    places: Int[Tensor, " vocab"] | None,
    rows: list[Int[Tensor, "1 seq"]],
) -> Iterator[Comparison]:
    for row in rows:
        if places is None:
            yield compare(before(row).logits[0], after(row).logits[0])
            continue
        there = places[row]
        if (there >= 0).all():
            kept = places >= 0
            yield compare(before(row).logits[0][:, kept], after(there).logits[0][:, places[kept]])
