"""Text while it comes: ids go in, complete characters come out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from nexus_universal.architecture.errors import InputError

BROKEN = "\ufffd"
"""What decoding gives for bytes that are no complete character."""


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class TextDecoder:
    """Turns ids into text piece by piece; the pieces joined are what decoding all ids at once gives.

    Text is held back while it ends within a character. Only ids since the last piece but one are decoded again, so long
    texts stay cheap, and a leading space is kept wherever the tokenizer would drop it at the start of a text.
    """

    def __init__(self, tokenizer: Any, *, context: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self.tokenizer = tokenizer
        self.skip_special_tokens = skip_special_tokens
        self.before: list[int] = list(context)
        self.waiting: list[int] = []

    def push(self, ids: Sequence[int]) -> str:
        """The text that these ids complete, or ""."""
        self.waiting += ids
        text = self._text()
        if not text or text.endswith(BROKEN):
            return ""
        self._advance()
        return text

    def flush(self) -> str:
        """What is still held back, incomplete characters included."""
        text = self._text()
        self._advance()
        return text

    def _text(self) -> str:
        """The text of the waiting ids, behind that of the ids before them."""
        before = self._decode(self.before).rstrip(BROKEN)
        return self._decode(self.before + self.waiting)[len(before) :]

    def _advance(self) -> None:
        self.before, self.waiting = self.waiting, []

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.skip_special_tokens) if ids else ""


class TextStreamer:
    """A streamer for `generate`: writes the continuation of one prompt as text, as soon as its characters are complete.

    `write` gets each piece; the default prints it.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        write: Callable[[str], None] = _to_stdout,
        skip_prompt: bool = True,
        skip_special_tokens: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.write = write
        self.skip_prompt = skip_prompt
        self.skip_special_tokens = skip_special_tokens
        self.decoder: TextDecoder | None = None

    def put(self, value: Tensor) -> None:
        """Take the prompt, then new ids.

        Raises:
            InputError: more than one row.
        """
        if value.shape[0] > 1:
            raise InputError(f"text is streamed for one prompt at a time, not for {value.shape[0]}")
        ids = value.flatten().tolist()
        if self.decoder is None:
            context = ids if self.skip_prompt else []
            self.decoder = TextDecoder(self.tokenizer, context=context, skip_special_tokens=self.skip_special_tokens)
            ids = [] if self.skip_prompt else ids
        if text := self.decoder.push(ids):
            self.write(text)

    def end(self) -> None:
        """Write what is still held back; the streamer is ready for another prompt then."""
        if self.decoder is not None and (text := self.decoder.flush()):
            self.write(text)
        self.decoder = None
