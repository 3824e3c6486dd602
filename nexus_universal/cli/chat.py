"""`nexus chat`: talk with a checkpoint, line by line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from nexus_universal.cli import options
from nexus_universal.cli.model import checked_settings, load, refuse_ranks
from nexus_universal.generation.keys import NEUTRAL

DEFAULT_NEW_TOKENS = 1024
COMMANDS = "/clear forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C ends an answer"


def chat(
    source: options.CheckpointOrUnion,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="A system message.")] = None,
    max_new_tokens: options.MaxNewTokens = None,
    sample: options.Sample = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "cpu",
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
    capability: options.Capability = None,
) -> None:
    """Talk with a checkpoint by its chat template; a line is a turn. In a pipe, one answer per line of input.

    What was read stays in the cache from turn to turn. An answer has at most 1024 tokens unless --max-new-tokens says
    otherwise.
    """
    refuse_ranks("chat")
    ignored = list(ignore_key or ())
    settings = checked_settings(
        {
            "max_new_tokens": max_new_tokens or DEFAULT_NEW_TOKENS,
            "do_sample": sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            **{key: None for key in ignored if key in NEUTRAL},
        },
        greedy=sample is False,
    )
    model, tokenizer = load(
        source,
        dtype=dtype,
        device=device,
        ignore_keys=ignored,
        with_tokenizer=True,
        revision=revision,
        capability=capability,
    )
    from nexus_universal.generation.chat import Conversation

    talk = Conversation(model, tokenizer, system=system, **settings)
    for line in _lines():
        if line == "/exit":
            break
        if line == "/clear":
            talk.clear()
        elif line:
            _answer(talk.say(line))


def _lines() -> Iterator[str]:
    """The user's lines: with a prompt and a history on a terminal, bare in a pipe."""
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin)
        return
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history and editing)
    print(COMMANDS, file=sys.stderr)
    while True:
        try:
            yield input("> ").strip()
        except EOFError:
            print()
            return


def _answer(pieces: Iterator[str]) -> None:
    """Print an answer as it comes; Ctrl-C ends it and not the conversation."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    print(flush=True)
