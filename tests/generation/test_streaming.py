"""Streamed pieces are complete characters, and joined they are the whole text."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import TextIteratorStreamer

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import InputError
from nexus_universal.generation import GenerationSettings, TextDecoder, TextStreamer, generate_text, stream_text
from tests.generation.support import KINDS, TEXT
from tests.helpers import ids, pair, raw


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*TEXT, "日本語🎉é🎊ß" * 3, " a  b   c", "x"])
def test_pieces_join_to_the_text(kind: str, text: str, tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[kind]
    tokens = tokenizer(text)["input_ids"]
    decoder = TextDecoder(tokenizer)
    pieces = [decoder.push([token]) for token in tokens]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len([piece for piece in pieces if piece]) > 1 or text not in TEXT


@pytest.mark.parametrize("kind", KINDS)
def test_any_ids_join_to_their_text_behind_any_prompt(kind: str, tokenizers: dict[str, Any]) -> None:
    """Broken characters, special tokens, ids cut off anywhere: nothing is lost and nothing is doubled."""
    tokenizer, drawn = tokenizers[kind], random.Random(kind)
    units = [[token] for token in range(len(tokenizer))]
    if kind == "byte_fallback":
        # A broken byte makes its decoder break the sound ones before it, written by then: whole ones only.
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        units = [[token] for token, name in enumerate(names) if not name.startswith("<0x")]
        units += [
            tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in char.encode()]) for char in "\né日🎉"
        ] * 9
    for _ in range(200):
        tokens = [token for _ in range(drawn.randrange(1, 14)) for token in drawn.choice(units)]
        prompt = tokenizer(drawn.choice(["", "def", "é", "a "]))["input_ids"]
        decoder = TextDecoder(tokenizer, context=prompt)
        pieces = [decoder.push([token]) for token in tokens]
        assert not any(piece.endswith("\ufffd") for piece in pieces)
        before = tokenizer.decode(prompt, skip_special_tokens=True)
        assert before + "".join(pieces) + decoder.flush() == tokenizer.decode(prompt + tokens, skip_special_tokens=True)


def test_a_character_split_over_tokens_comes_once_and_whole(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["byte_fallback"]
    tokens = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "🎉".encode()]
    decoder = TextDecoder(tokenizer, context=tokenizer("a")["input_ids"])
    assert [decoder.push([token]) for token in tokens] == ["", "", "", "🎉"]
    assert decoder.flush() == ""
    cut = TextDecoder(tokenizer, context=tokenizer("a")["input_ids"])
    assert [cut.push([token]) for token in tokens[:3]] == ["", "", ""]
    assert cut.flush().startswith("\ufffd")


def broken(tokenizer: Any) -> list[int]:
    """The four ids of one character, a byte each."""
    return tokenizer.convert_tokens_to_ids(list(pre_tokenizers.ByteLevel(False).pre_tokenize_str("🎉")[0][0]))


def test_a_character_that_the_prompt_begins_comes_whole(tokenizers: dict[str, Any]) -> None:
    tokens = broken(tokenizers["byte_level"])
    decoder = TextDecoder(tokenizers["byte_level"], context=tokens[:2])
    assert [decoder.push([token]) for token in tokens[2:]] == ["", "🎉"]


def test_a_text_that_ends_within_a_character_shows_it(tokenizers: dict[str, Any]) -> None:
    """A model that says the next id of a list each time, and stops before the character is whole."""
    tokenizer = tokenizers["byte_level"]
    n = ArchitectureParameter.from_huggingface(raw("llama", vocab_size=400))
    said = tokenizer("a b")["input_ids"] + broken(tokenizer)[:3]

    class Saying:
        def __init__(self) -> None:
            self.n, self.settings, self.left = n, GenerationSettings(), list(said)

        def new_cache(self, batch_size: int = 1) -> None:
            return None

        def __call__(self, *args: Any, **call: Any) -> Any:
            return SimpleNamespace(logits=torch.nn.functional.one_hot(torch.tensor([[self.left.pop(0)]]), 400).float())

    pieces = list(stream_text(Saying(), tokenizer, "x", max_new_tokens=len(said)))
    assert pieces[-1] == "\ufffd" and "".join(pieces) == "a b\ufffd"
    assert generate_text(Saying(), tokenizer, "x", max_new_tokens=len(said)) == "a b\ufffd"


def test_long_texts_stay_cheap(tokenizers: dict[str, Any]) -> None:
    """Each push decodes a few ids, however long the text is by now."""
    tokenizer = tokenizers["byte_level"]
    asked: list[int] = []

    class Watched:
        def decode(self, tokens: list[int], **settings: Any) -> str:
            asked.append(len(tokens))
            return tokenizer.decode(tokens, **settings)

    decoder = TextDecoder(Watched())
    for token in tokenizer(TEXT[0] * 50)["input_ids"]:
        decoder.push([token])
    assert max(asked) <= 8


@pytest.mark.parametrize("skip_prompt", [True, False])
def test_a_text_streamer_writes_what_the_references_does(skip_prompt: bool, tokenizers: dict[str, Any]) -> None:
    theirs, ours = pair("llama")
    tokenizer, written = tokenizers["plain"], []
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    reference = TextIteratorStreamer(tokenizer, skip_prompt=False, skip_special_tokens=True)
    theirs.generate(ids(1, 4), streamer=reference, eos_token_id=None, **settings)
    streamer = TextStreamer(tokenizer, write=written.append, skip_prompt=skip_prompt)
    ours.generate(ids(1, 4), streamer=streamer, eos_token_id=[], **settings)
    assert len(written) > 3
    prompt = tokenizer.decode(ids(1, 4)[0]) if skip_prompt else ""
    assert prompt + "".join(written) == "".join(reference)
    again: list[str] = []
    streamer.write = again.append
    ours.generate(ids(1, 4), streamer=streamer, eos_token_id=[], **settings)
    assert again == written


def test_the_references_streamer_runs_on_our_model(tokenizers: dict[str, Any]) -> None:
    theirs, ours = pair("llama")
    texts = []
    for model, eos in ((theirs, None), (ours, [])):
        streamer = TextIteratorStreamer(tokenizers["plain"], skip_prompt=True)
        model.generate(ids(1, 4), streamer=streamer, max_new_tokens=8, do_sample=False, eos_token_id=eos)
        texts.append("".join(streamer))
    assert texts[0] == texts[1] != ""


def test_text_is_streamed_for_one_row(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="one prompt at a time, not for 2"):
        TextStreamer(tokenizers["plain"]).put(torch.zeros(2, 3, dtype=torch.long))
