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
) -> None:
    """Serve a checkpoint to OpenAI's clients: chat and completions, streamed or not, by transformers' own server."""
    if sources.is_union(source):
        raise InputError(f"{source} is a union: `nexus convert` writes one of its models as a checkpoint, to be served")
    sources.read_source(source)
    from nexus_universal.integrations.serving import serve as run

    run(source, host=host, port=port, dtype=dtype, device=device)
