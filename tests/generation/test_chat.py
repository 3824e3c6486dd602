"""A conversation says what a fresh call on all its turns would say, and reads nothing twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.generation.chat import Conversation
from nexus_universal.generation.text import generate_text, load_tokenizer
from tests.cli.support import DATA

TURNS = ("Create a new", "Return the first", "Raise an error")
SETTINGS: dict[str, Any] = {"max_new_tokens": 9, "do_sample": False}
FORGETFUL = (
    "{% for m in messages %}{% if loop.index > loop.length - 2 or m.role == 'user' %}<|im_start|>{{ m.role }}\n"
    "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}<|im_start|>assistant\n"
)
"""A template that leaves out earlier answers, as those of thinking models leave out thoughts."""


class Counted:
    """A model that notes how many positions each call read."""

    def __init__(self, model: UniversalTransformer) -> None:
        self.model, self.n, self.settings = model, model.n, model.settings
        self.new_cache = model.new_cache
        self.read: list[int] = []

    def __call__(self, ids: torch.Tensor, **named: Any) -> Any:
        self.read.append(ids.shape[1])
        return self.model(ids, **named)


@pytest.fixture(scope="module", params=["qwen3_tiny", "gemma3_tiny"])
def loaded(request: pytest.FixtureRequest) -> tuple[UniversalTransformer, Any]:
    """One checkpoint keeps all positions, the other has windows that cannot be cropped."""
    folder = DATA / request.param
    return UniversalTransformer.from_pretrained(folder, dtype="float32"), load_tokenizer(folder)


@pytest.fixture
def tokenizer(loaded: tuple[UniversalTransformer, Any]) -> Callable[[str | None], Any]:
    def with_template(template: str | None) -> Any:
        import copy

        changed = copy.deepcopy(loaded[1])
        changed.chat_template = template or changed.chat_template
        return changed

    return with_template


@pytest.mark.parametrize("template", [None, FORGETFUL], ids=["all turns", "earlier answers left out"])
@pytest.mark.parametrize("system", [None, "Be short."])
def test_every_answer_is_that_of_a_fresh_call(
    loaded: Any, tokenizer: Callable[[str | None], Any], template: str | None, system: str | None
) -> None:
    model, chosen = loaded[0], tokenizer(template)
    talk = Conversation(model, chosen, system=system, **SETTINGS)
    messages = [{"role": "system", "content": system}] if system else []
    for turn in TURNS:
        messages.append({"role": "user", "content": turn})
        expected = generate_text(model, chosen, messages, **SETTINGS)
        assert "".join(talk.say(turn)) == expected
        messages.append({"role": "assistant", "content": str(expected)})
        assert talk.messages == messages


def test_what_was_read_is_not_read_again(loaded: Any) -> None:
    model, chosen = Counted(loaded[0]), loaded[1]
    talk = Conversation(model, chosen, **SETTINGS)
    list(talk.say(TURNS[0]))
    before = talk.cache.length
    assert sum(model.read) == before
    list(talk.say(TURNS[1]))
    whole = len(
        chosen(chosen.apply_chat_template(talk.messages[:3], tokenize=False, add_generation_prompt=True)).input_ids
    )
    assert model.read[0] < whole
    assert max(model.read[1:]) < whole - before + 4, "the second prompt was read from its beginning"
    assert sum(model.read) == talk.cache.length


def test_cleared_it_knows_nothing(loaded: Any) -> None:
    talk = Conversation(*loaded, system="Be short.", **SETTINGS)
    first = list(talk.say(TURNS[0]))
    talk.clear()
    assert talk.messages == [{"role": "system", "content": "Be short."}]
    assert list(talk.say(TURNS[0])) == first


def test_an_answer_left_early_was_never_said(loaded: Any) -> None:
    talk, other = Conversation(*loaded, **SETTINGS), Conversation(*loaded, **SETTINGS)
    next(iter(talk.say(TURNS[0])))
    assert talk.messages == []
    assert list(talk.say(TURNS[1])) == list(other.say(TURNS[1]))


def test_a_tokenizer_without_template_is_refused(loaded: Any, tokenizer: Callable[[str | None], Any]) -> None:
    plain = tokenizer(None)
    plain.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Conversation(loaded[0], plain).say("hello")


def test_a_conversation_that_outgrows_the_context_is_refused(loaded: Any) -> None:
    talk = Conversation(*loaded, **SETTINGS)
    with pytest.raises(InputError, match="the context is 512"):
        talk.say("word " * 600)
    assert talk.messages == []
    assert list(talk.say(TURNS[0]))


def test_a_cache_that_has_read_as_much_is_refused(loaded: Any) -> None:
    model = loaded[0]
    ids = torch.tensor([[5, 6, 7]])
    cache = model.new_cache()
    model(ids, cache=cache)
    with pytest.raises(InputError, match="has read 3 positions: input_ids must be longer, not 3"):
        model.generate(ids, cache=cache)


def test_a_cached_beginning_changes_no_id(loaded: Any) -> None:
    model = loaded[0]
    ids = torch.randint(3, model.n.d_vocab, (1, 40), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache()
    model(ids[:, :25], cache=cache)
    expected = model.generate(ids, **SETTINGS)
    assert torch.equal(model.generate(ids, cache=cache, **SETTINGS), expected)
    assert cache.length == expected.shape[1] - 1
