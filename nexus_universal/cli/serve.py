"""`nexus serve`: an OpenAI-compatible server for one checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import options, sources


def serve(
    source: options.Checkpoint,
    host: Annotated[str, typer.Option("--host", help="Where to listen.")] = "localhost",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On which port.")] = 8000,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "cpu",
    continuous_batching: Annotated[
        bool, typer.Option("--continuous-batching", help="Let requests join those that run, their keys in pages.")
    ] = False,
    pages: Annotated[
        int | None, typer.Option("--pages", min=1, help="So many pages of 256 positions; else by free memory.")
    ] = None,
    batch_tokens: Annotated[
        int | None, typer.Option("--batch-tokens", min=1, help="At most so many tokens in a call, of all requests.")
    ] = None,
) -> None:
    """Serve a checkpoint to OpenAI's clients: chat and completions, streamed or not, by transformers' own server."""
    if sources.is_union(source):
        raise InputError(f"{source} is a union: `nexus convert` writes one of its models as a checkpoint, to be served")
    sources.read_source(source)
    if not continuous_batching and (pages or batch_tokens):
        raise InputError("--pages and --batch-tokens belong to --continuous-batching")
    from nexus_universal.integrations.serving import Batching
    from nexus_universal.integrations.serving import serve as run

    batching = Batching(pages=pages, tokens=batch_tokens) if continuous_batching else None
    run(source, host=host, port=port, dtype=dtype, device=device, batching=batching)
