"""Stop strings end rows exactly where the reference's StopStringCriteria ends them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.stopping_criteria import StopStringCriteria

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.generation import encode
from nexus_universal.generation.stopping import StopStrings
from tests.generation.support import CHECKPOINTS, DATA, KINDS
from tests.helpers import ids, pair, same

STRINGS = [
    ["stop"],
    ["s"],
    ["stop", " top"],
    ["."],
    ["ß"],
    ["é c"],
    ["日本"],
    ["🎉"],
    [" "],
    ["pper", "ing at"],
    ["<end>"],
    ["q", "stopping at"],
]


def pieces(tokenizer: Any, stop: list[str], drawn: random.Random) -> list[int]:
    """Ids drawn at random, with bits of the stop strings among them, so that matches are near."""
    found: list[int] = []
    for _ in range(6):
        if drawn.random() < 0.5:
            text = drawn.choice(stop)
            begin, end = sorted(drawn.sample(range(len(text) + 1), 2))
            found += tokenizer(text[begin:end], add_special_tokens=False)["input_ids"]
        else:
            found.append(drawn.randrange(len(tokenizer)))
    return found[-8:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", STRINGS, ids=str)
def test_rows_end_where_the_reference_ends_them(kind: str, stop: list[str], tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers[kind]
    ours = StopStrings(stop, tokenizer)
    drawn = random.Random(str(stop))
    rows = [pieces(tokenizer, stop, drawn) for _ in range(150)]
    try:
        theirs = StopStringCriteria(tokenizer, stop)
    except ValueError:
        # No token of this vocabulary could end the string, and the reference refuses it; ours must then never stop.
        assert kind == "plain"
        assert not any(ours(torch.tensor([row])).item() for row in rows)
        return
    rows += [
        tokenizer(f"{'x' * at} {text}{'er' * at}", add_special_tokens=False)["input_ids"]
        for at in (0, 1)
        for text in stop
    ]
    by_letter = {char: tokenizer(char, add_special_tokens=False)["input_ids"] for text in stop for char in text}
    rows += [[token for char in text for token in by_letter[char]] for text in stop]
    outcomes = set()
    for row in rows:
        for end in range(1, len(row) + 1):
            given = torch.tensor([row[:end]])
            assert same(ours(given), theirs(given, None)), row[:end]
            outcomes.add(ours(given).item())
    assert outcomes == {True, False} or kind == "plain"


def test_ids_that_the_tokenizer_lacks_match_nothing(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["byte_level"]
    s, top = tokenizer("s")["input_ids"], tokenizer("top")["input_ids"]
    stop, theirs = StopStrings(["stop"], tokenizer), StopStringCriteria(tokenizer, ["stop"])
    for row in (s + top, [*s, 5000, *top], [*s, *top, 5000], [5000, *s, *top]):
        given = torch.tensor([row])
        assert same(stop(given), theirs(given, None))


@pytest.mark.parametrize("eos", [[], [3]])
def test_generation_ends_and_fills_as_in_the_reference(eos: list[int], tokenizers: dict[str, Any]) -> None:
    """Without an end-of-text id, finished rows are not filled but go on: so it is in the reference."""
    tokenizer = tokenizers["plain"]
    theirs, ours = pair("llama")
    settings: dict[str, Any] = {"max_new_tokens": 30, "do_sample": False, "tokenizer": tokenizer, "pad_token_id": 0}
    free = theirs.generate(ids(3, 6), eos_token_id=None, **settings)[:, 6:]
    stop = [tokenizer.convert_ids_to_tokens(int(free[0, 4])).removeprefix("##"), "qu"]
    expected = theirs.generate(ids(3, 6), eos_token_id=eos or None, stop_strings=stop, **settings)
    assert same(expected, ours.generate(ids(3, 6), eos_token_id=eos, stop_strings=stop, **settings))
    single = theirs.generate(ids(3, 6)[:1], eos_token_id=eos or None, stop_strings=stop, **settings)
    assert single.shape[1] <= 6 + 5
    assert same(single, ours.generate(ids(3, 6)[:1], eos_token_id=eos, stop_strings=stop, **settings))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_trained_checkpoints_stop_as_the_reference_does(name: str) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(DATA / name).eval()
    ours, tokenizer = UniversalTransformer.from_pretrained(DATA / name), AutoTokenizer.from_pretrained(DATA / name)
    drawn, mask = encode(tokenizer, ["Return the", "Create a new"])
    for stop in ("a", ["e\n", ". "], [" th"], "\n\n"):
        settings: dict[str, Any] = {
            "stop_strings": stop,
            "tokenizer": tokenizer,
            "do_sample": False,
            "max_new_tokens": 40,
        }
        expected = theirs.generate(drawn, attention_mask=mask, **settings)
        assert same(expected, ours.generate(drawn, attention_mask=mask, **settings))


def test_a_string_in_the_prompt_is_none_but_one_that_it_begins_is(tokenizers: dict[str, Any]) -> None:
    stop = StopStrings(["stop"], tokenizers["byte_level"])
    token = {text: tokenizers["byte_level"](text)["input_ids"] for text in ("stop", "s", "t", "o", "p", "x")}
    prompt = token["stop"]
    assert not stop(torch.tensor([prompt + token["x"]])).item()
    assert stop(torch.tensor([token["s"] + token["t"] + token["o"] + token["p"]])).item()
    assert not stop(torch.tensor([token["s"] + token["t"] + token["o"]])).item()


def test_a_token_without_text_completes_nothing(tokenizers: dict[str, Any]) -> None:
    stop = StopStrings(["s", "longer"], tokenizers["byte_level"])
    stop.known[5] = b""
    s = tokenizers["byte_level"]("s")["input_ids"]
    assert stop.matches(s) and stop.matches([5, *s]) and not stop.matches([*s, 5])


def test_stop_strings_need_a_tokenizer() -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match="pass tokenizer="):
        ours.generate(ids(1, 3), stop_strings="x")
