"""A conversation: turns rendered by the checkpoint's chat template, and nothing read twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Unpack

from nexus_universal.architecture.errors import InputError
from nexus_universal.generation.loop import LanguageModel, stream
from nexus_universal.generation.settings import CallSettings
from nexus_universal.generation.streaming import TextDecoder
from nexus_universal.generation.text import encode, render_chat


class Conversation:
    """The turns so far, and the cache that has read them.

    Every turn is rendered anew by the tokenizer's template, which may rewrite earlier turns (thoughts are often left
    out). What the cache has read of it already is kept; where they part, the cache is cropped, or begun anew if one of
    its states keeps no past.

    Example:
        >>> talk = Conversation(model, tokenizer, system="Answer in one word.", max_new_tokens=20)
        >>> print("".join(talk.say("What is the capital of France?")))
    """

    def __init__(
        self, model: LanguageModel, tokenizer: Any, *, system: str | None = None, **settings: Unpack[CallSettings]
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings
        self.system = system
        self.clear()

    def clear(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        self.cache = self.model.new_cache()
        self.read: list[int] = []

    def say(self, text: str) -> Iterator[str]:
        """Take a user's turn; the answer in pieces, as they come. Left early, the turn is as if it was never said.

        Raises:
            InputError: no chat template, or a conversation that has outgrown the context; raised by this call.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids, _ = encode(self.tokenizer, [render_chat(self.tokenizer, messages)], add_special_tokens=False)
        prompt = ids[0].tolist()
        self._rewind(_shared(self.read, prompt))
        steps = stream(self.model, ids, tokenizer=self.tokenizer, cache=self.cache, **self.settings)
        decoder = TextDecoder(self.tokenizer, context=prompt)

        def pieces() -> Iterator[str]:
            said: list[str] = []
            for step in steps:
                self.read = [*prompt, *new]
                new.append(int(step.ids[0]))
                if piece := decoder.push(new[-1:]):
                    said.append(piece)
                    yield piece
            if rest := decoder.flush():
                said.append(rest)
                yield rest
            self.messages = [*messages, {"role": "assistant", "content": "".join(said)}]

        new: list[int] = []
        return pieces()

    def _rewind(self, kept: int) -> None:
        """Let the cache have read no more than the first `kept` ids."""
        if kept < self.cache.length:
            try:
                self.cache.crop(kept)
            except InputError:
                self.cache = self.model.new_cache()
        self.read = self.read[: self.cache.length]


def _shared(read: list[int], prompt: list[int]) -> int:
    """How many ids the two begin alike with; at least one of the prompt's is left to be read."""
    same = 0
    for before, now in zip(read, prompt[:-1], strict=False):
        if before != now:
            break
        same += 1
    return same
