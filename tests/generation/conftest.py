"""Three tokenizers, one of each kind that there is: byte-level, byte fallback, plain text."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.generation.support import TEXT


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(TEXT, trainer)
    return made


def _byte_fallback() -> Tokenizer:
    words = sorted({f"▁{word}" for line in TEXT for word in line.split() if word.isascii()})
    letters = sorted({letter for line in TEXT for letter in line if letter.isascii() and letter.isprintable()} | {"▁"})
    pieces = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *words, "st", "op", "▁▁"]
    made = Tokenizer(
        models.Unigram(
            [(piece, -1.0 - 0.01 * place) for place, piece in enumerate(dict.fromkeys(pieces))],
            unk_id=0,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def _plain() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=False)
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=150, special_tokens=["<unk>", "<end>"]))
    return made


@pytest.fixture(scope="session")
def tokenizers() -> dict[str, Any]:
    """By kind; "<end>" ends a text."""
    makers = {"byte_level": _byte_level, "byte_fallback": _byte_fallback, "plain": _plain}
    return {
        kind: PreTrainedTokenizerFast(
            tokenizer_object=make(), eos_token="<end>", clean_up_tokenization_spaces=False, padding_side="left"
        )
        for kind, make in makers.items()
    }
