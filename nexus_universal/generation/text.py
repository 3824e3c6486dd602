"""From text to text: tokenizers and chat templates are transformers' own, imported when first needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.generation.loop import LanguageModel, stream
from nexus_universal.generation.settings import CallSettings
from nexus_universal.generation.streaming import TextDecoder

Message = Mapping[str, Any]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)


def load_tokenizer(source: str | PathLike[str], **hub: Any) -> Any:
    """The tokenizer of a checkpoint, by transformers' AutoTokenizer; code that comes with a checkpoint is never run.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        InputError: transformers is not installed.
    """
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{path}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    if path.is_file() or (not path.is_dir() and (path.is_absolute() or str(source).count("/") != 1)):
        raise CheckpointError(f"{source}: no such directory (and not a repo id of the form owner/name)")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise InputError(
            f"tokenizers need transformers, which cannot be imported ({error}); give ids instead"
        ) from None
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{source}: its tokenizer cannot be read ({reason})") from None


def render_chat(
    tokenizer: Any, messages: Sequence[Message], *, add_generation_prompt: bool = True, **template: Any
) -> str:
    """The text of a conversation, by the tokenizer's own chat template; special tokens are already in it.

    Raises:
        InputError: no template, messages without role and content, or a conversation that the template refuses.
    """
    if not messages:
        raise InputError("the conversation is empty: give at least one message")
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise InputError(f"message {place} must be a dict with 'role' and 'content'")
    if not getattr(tokenizer, "chat_template", None) and "chat_template" not in template:
        raise InputError("this checkpoint's tokenizer has no chat template: give the prompt as plain text")
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            **template,
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"the chat template refuses this conversation ({reason})") from None


def encode(
    tokenizer: Any, prompts: Sequence[str], *, add_special_tokens: bool = True, pad: int = 0
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Ids and mask of several prompts, padded on the left.

    Raises:
        InputError: no prompt, or one without a token.
    """
    if not prompts:
        raise InputError("there is no prompt")
    rows = [tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"] for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not row:
            raise InputError(f"the prompt {prompt!r} has no token: give at least one character")
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def generate_text(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str | Sequence[str] | Sequence[Message],
    **settings: Unpack[CallSettings],
) -> str | list[str]:
    """The continuation of a prompt or of a conversation (a list of messages); for several prompts, a list of them.

    Each text ends where its row does: before its end-of-text id, or behind its stop string.

    Raises:
        InputError: see `generate`, `render_chat` and `encode`.

    Example:
        >>> generate_text(model, tokenizer, [{"role": "user", "content": "Name a prime."}], max_new_tokens=20)
    """
    if isinstance(prompt, str):
        texts, chat = [prompt], False
    else:
        messages = [item for item in prompt if isinstance(item, Mapping)]
        texts, chat = [item for item in prompt if isinstance(item, str)], bool(messages)
        if chat and not texts:
            texts = [render_chat(tokenizer, messages)]
        elif chat:
            raise InputError("prompt mixes texts and messages: give texts, or the messages of one conversation")
    rows = generate_ids(model, tokenizer, texts, add_special_tokens=not chat, **settings)
    continued = [continuation(tokenizer, before, new) for before, new in rows]
    return continued[0] if chat or isinstance(prompt, str) else continued


def generate_ids(
    model: LanguageModel,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    add_special_tokens: bool = True,
    **settings: Unpack[CallSettings],
) -> list[tuple[list[int], list[int]]]:
    """(ids of the prompt, new ids up to the row's own end) for each text; rows run as one batch.

    Raises:
        InputError: see `generate` and `encode`.
    """
    ids, mask = encode(tokenizer, texts, add_special_tokens=add_special_tokens, pad=_filler(model))
    new: list[list[int]] = [[] for _ in texts]
    running = [True] * len(texts)
    for step in stream(model, ids, mask, tokenizer=tokenizer, **settings):
        for row, token in enumerate(step.ids.tolist()):
            if running[row]:
                new[row].append(token)
        running = step.running.tolist()
    return [(row[keep.bool()].tolist(), more) for row, keep, more in zip(ids, mask, new, strict=True)]


def stream_text(
    model: LanguageModel,
    tokenizer: Any,
    prompt: str | Sequence[Message],
    **settings: Unpack[CallSettings],
) -> Iterator[str]:
    """The continuation of one prompt or conversation, in pieces as they come: joined, what `generate_text` gives.

    Raises:
        InputError: see `generate_text`; raised by this call, not by the first piece.
    """
    chat = not isinstance(prompt, str)
    text = render_chat(tokenizer, prompt) if chat else prompt
    ids, mask = encode(tokenizer, [text], add_special_tokens=not chat)
    steps = stream(model, ids, mask, tokenizer=tokenizer, **settings)
    decoder = TextDecoder(tokenizer, context=ids[0].tolist())

    def pieces() -> Iterator[str]:
        for step in steps:
            if piece := decoder.push(step.ids.tolist()):
                yield piece
        if rest := decoder.flush():
            yield rest

    return pieces()


def continuation(tokenizer: Any, prompt: Sequence[int], new: Sequence[int]) -> str:
    """The text that `new` ids add to a prompt's; a leading space stays, which decoding them alone may drop."""
    decoder = TextDecoder(tokenizer, context=prompt)
    decoder.waiting = list(new)
    return decoder.flush()


def _filler(model: LanguageModel) -> int:
    """Any id of the vocabulary: what it is is masked."""
    fill = model.settings.fill
    return fill if fill is not None and 0 <= fill < model.n.d_vocab else 0
