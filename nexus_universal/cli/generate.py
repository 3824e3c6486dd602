"""`nexus generate`: continue prompts with a checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import options, output, sources
from nexus_universal.cli.model import checked_settings, load, ranks, routed
from nexus_universal.generation.keys import NEUTRAL

if TYPE_CHECKING:
    from nexus_universal.transformer import UniversalTransformer


def generate(
    source: options.CheckpointOrUnion,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="What to continue; several run as a batch."),
    ] = None,
    ids: Annotated[
        str | None, typer.Option("--ids", metavar="1,2,3", help="Token ids to continue instead; needs no tokenizer.")
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Give each prompt as a user's message, by the chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="A system message, with --chat.")
    ] = None,
    max_new_tokens: options.MaxNewTokens = None,
    sample: options.Sample = None,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="End behind this text; repeatable.")
    ] = None,
    stream: Annotated[
        bool | None, typer.Option("--stream/--no-stream", help="Print text as it comes; by default on a terminal.")
    ] = None,
    as_json: options.AsJson = False,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "cpu",
    ignore_key: options.IgnoreKeys = None,
    revision: options.Revision = None,
    capability: options.RoutedCapability = None,
) -> None:
    """Continue prompts, as the checkpoint's generation_config.json says where options do not. Prints what is new.

    --temperature, --top-k, --top-p and --min-p imply --sample. --ignore-key takes keys of generation_config.json too.
    Under torchrun the processes share the model by tensor parallelism, and the first one prints.
    """
    prompts = list(prompt or ())
    _check(prompts, ids, chat=chat, system=system, stream=stream, as_json=as_json, stop=stop)
    tokens = _parsed(ids) if ids is not None else None
    ignored = list(ignore_key or ())
    settings = checked_settings(
        {
            "max_new_tokens": max_new_tokens,
            "do_sample": sample,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "seed": seed,
            "stop_strings": stop or None,
            **{key: None for key in ignored if key in NEUTRAL},
        },
        greedy=sample is False,
    )
    conversations = [_conversation(text, system) for text in prompts] if chat else None
    streamed = sys.stdout.isatty() if stream is None else stream
    with ranks(device) as mesh:
        if tokens is None and sources.has_branches(source, capability):
            capability = routed(source, prompts, capability=capability, dtype=dtype, device=device)
        model, tokenizer = load(
            source,
            dtype=dtype,
            device=device,
            ignore_keys=ignored,
            with_tokenizer=tokens is None,
            revision=revision,
            capability=capability,
            mesh=mesh,
        )
        if tokens is not None:
            _continue_ids(model, tokens, settings, as_json=as_json)
        elif streamed and len(prompts) == 1 and not as_json:
            _stream(model, tokenizer, conversations[0] if conversations else prompts[0], settings)
        else:
            _continue(model, tokenizer, prompts, conversations, settings, as_json=as_json)


def _check(
    prompts: list[str],
    ids: str | None,
    *,
    chat: bool,
    system: str | None,
    stream: bool | None,
    as_json: bool,
    stop: list[str] | None,
) -> None:
    """Options that contradict each other.

    Raises:
        InputError: naming them.
    """
    if (ids is None) == (not prompts):
        raise InputError("give either --prompt TEXT (once or more) or --ids 1,2,3")
    if ids is not None and (chat or stop):
        raise InputError("--ids goes without --chat and --stop: those need text")
    if system is not None and not chat:
        raise InputError("--system needs --chat")
    if stream and (len(prompts) != 1 or as_json):
        raise InputError("--stream needs exactly one --prompt, and no --json")


def _parsed(text: str) -> list[int]:
    """The ids of `1,2,3`.

    Raises:
        InputError: anything else.
    """
    try:
        return [int(piece) for piece in text.split(",")]
    except ValueError:
        raise InputError(f"--ids {text!r} must be whole numbers between commas, such as 1,2,3") from None


def _conversation(text: str, system: str | None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system is not None else []
    return [*first, {"role": "user", "content": text}]


def _continue_ids(model: UniversalTransformer, ids: list[int], settings: dict[str, Any], *, as_json: bool) -> None:
    import torch

    from nexus_universal.generation.loop import stream

    with output.status() as progress:
        progress("generating")
        new = [step.ids.item() for step in stream(model, torch.tensor([ids]), **settings)]
    if as_json:
        output.print_json([{"prompt_ids": ids, "ids": new}])
    else:
        print(",".join(map(str, new)))


def _continue(
    model: UniversalTransformer,
    tokenizer: Any,
    prompts: list[str],
    conversations: list[list[dict[str, str]]] | None,
    settings: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """All prompts as one batch. Several continuations stand each under its prompt."""
    from nexus_universal.generation.text import continuation, generate_ids, render_chat

    texts = [render_chat(tokenizer, messages) for messages in conversations] if conversations else prompts
    with output.status() as progress:
        progress("generating")
        rows = generate_ids(model, tokenizer, texts, add_special_tokens=conversations is None, **settings)
    found = [
        {"prompt": prompt, "text": continuation(tokenizer, before, new), "prompt_ids": before, "ids": new}
        for prompt, (before, new) in zip(prompts, rows, strict=True)
    ]
    if as_json:
        output.print_json(found)
        return
    for place, row in enumerate(found):
        if len(found) > 1:
            print(f"{'' if place == 0 else chr(10)}--- {row['prompt']}")
        print(row["text"])


def _stream(
    model: UniversalTransformer, tokenizer: Any, prompt: str | list[dict[str, str]], settings: dict[str, Any]
) -> None:
    from nexus_universal.generation.text import stream_text

    for piece in stream_text(model, tokenizer, prompt, **settings):
        print(piece, end="", flush=True)
    print()
