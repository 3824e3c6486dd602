"""From text to text: prompts, batches, conversations, and what a tokenizer may lack."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.generation import encode, generate_text, load_tokenizer, render_chat, stream_text
from tests.generation.support import CHECKPOINTS, DATA
from tests.helpers import pair

NAME = CHECKPOINTS[0]
PROMPTS = ["Return the", "Create a new object from", "This"]
CHAT = [{"role": "user", "content": "What does len do?"}]


@pytest.fixture(scope="module", params=CHECKPOINTS)
def loaded(request: pytest.FixtureRequest) -> tuple[Any, UniversalTransformer, Any]:
    folder = DATA / request.param
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    return theirs, UniversalTransformer.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_texts_are_the_references(loaded: Any) -> None:
    theirs, ours, tokenizer = loaded
    given = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    rows = theirs.generate(**given, do_sample=False, max_new_tokens=24)
    whole = tokenizer.batch_decode(rows, skip_special_tokens=True)
    found = generate_text(ours, tokenizer, PROMPTS, do_sample=False, max_new_tokens=24)
    assert [prompt + text for prompt, text in zip(PROMPTS, found, strict=True)] == whole


def test_one_prompt_gives_one_text_and_streams_to_the_same(loaded: Any) -> None:
    _, ours, tokenizer = loaded
    settings: dict[str, Any] = {"do_sample": True, "seed": 4, "max_new_tokens": 24}
    text = generate_text(ours, tokenizer, PROMPTS[0], **settings)
    assert isinstance(text, str) and text
    pieces = list(stream_text(ours, tokenizer, PROMPTS[0], **settings))
    assert "".join(pieces) == text and len(pieces) > 1
    assert generate_text(ours, tokenizer, [PROMPTS[0]], **settings) == [text]


def test_conversations_go_through_the_template(loaded: Any) -> None:
    theirs, ours, tokenizer = loaded
    rendered = render_chat(tokenizer, CHAT)
    assert rendered == tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert CHAT[0]["content"] in rendered
    given = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = theirs.generate(**given, do_sample=False, max_new_tokens=12)[0, given["input_ids"].shape[1] :]
    found = generate_text(ours, tokenizer, CHAT, do_sample=False, max_new_tokens=12)
    assert found == tokenizer.decode(expected, skip_special_tokens=True)
    assert "".join(stream_text(ours, tokenizer, CHAT, do_sample=False, max_new_tokens=12)) == found


def test_rows_keep_their_own_end_in_a_batch(loaded: Any) -> None:
    """A row that a stop string ends is not followed by what it would have said, nor by pads."""
    _, ours, tokenizer = loaded
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 30, "eos_token_id": []}
    free = generate_text(ours, tokenizer, PROMPTS, **settings)
    stop = free[0][4:7]
    for text, whole in zip(generate_text(ours, tokenizer, PROMPTS, stop_strings=[stop], **settings), free, strict=True):
        if stop in whole:
            end = whole.index(stop) + len(stop)
            assert whole[:end] == text[:end] and len(text) < end + 10 < len(whole)
        else:
            assert text == whole
    assert len(generate_text(ours, tokenizer, PROMPTS[0], stop_strings=stop, **settings)) < len(free[0])


def test_prompts_are_padded_on_the_left_whatever_the_tokenizer_says(loaded: Any) -> None:
    _, _, tokenizer = loaded
    ids, mask = encode(tokenizer, PROMPTS, pad=3)
    expected = tokenizer(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    assert torch.equal(mask, expected["attention_mask"])
    assert torch.equal(ids, torch.where(mask == 1, expected["input_ids"], 3))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "there is no prompt"),
        (["a", {"role": "user", "content": "b"}], "mixes texts and messages"),
        ([{"role": "user"}], "message 0 must be a dict with 'role' and 'content'"),
    ],
)
def test_bad_prompts_are_refused(prompt: Any, message: str, loaded: Any) -> None:
    _, ours, tokenizer = loaded
    with pytest.raises(InputError, match=message):
        generate_text(ours, tokenizer, prompt)


def test_an_empty_text_is_refused_and_an_empty_conversation(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="has no token"):
        encode(tokenizers["byte_level"], ["a", ""])
    with pytest.raises(InputError, match="the conversation is empty"):
        render_chat(tokenizers["byte_level"], [])


def test_a_tokenizer_without_template_says_so(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no chat template"):
        render_chat(tokenizers["byte_level"], CHAT)
    template = "{% for m in messages %}{{ raise_exception('only\nsystem') }}{% endfor %}"
    with pytest.raises(InputError, match="the chat template refuses this conversation") as caught:
        render_chat(tokenizers["byte_level"], CHAT, chat_template=template)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_loads_and_what_is_none_is_refused(tmp_path: Path) -> None:
    assert load_tokenizer(DATA / NAME)("Return")["input_ids"]
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no such directory"):
        load_tokenizer(tmp_path / "none")
    shutil.copytree(DATA / NAME, tmp_path / "bad")
    (tmp_path / "bad" / "tokenizer.json").write_text("{\n}")
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read") as caught:
        load_tokenizer(tmp_path / "bad")
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / NAME, tmp_path / "code"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        f"from transformers import PreTrainedTokenizerFast\nopen({str(tmp_path / 'ran')!r}, 'w')\n"
        "class Own(PreTrainedTokenizerFast): pass\n"
    )
    with contextlib.suppress(CheckpointError):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


def test_bad_input_is_refused_by_the_call_not_by_the_first_piece(tokenizers: dict[str, Any]) -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match="outside the vocabulary"):
        stream_text(ours, tokenizers["byte_level"], "日本")
