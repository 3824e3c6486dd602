"""What commands that run a model begin with: settings checked before anything is loaded, then model and tokenizer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import output, sources

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

    from nexus_universal.transformer import UniversalTransformer


@contextlib.contextmanager
def ranks(device: str) -> Iterator[DeviceMesh | None]:
    """The processes that torchrun started together, of which the first alone prints; None for a process on its own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    from nexus_universal.integrations.distributed import joined_ranks

    with joined_ranks(_device(device)) as mesh, contextlib.ExitStack() as silence:
        if mesh.get_rank() > 0:
            silence.enter_context(contextlib.redirect_stdout(silence.enter_context(open(os.devnull, "w"))))
        yield mesh


def refuse_ranks(command: str) -> None:
    """Say that a command runs in one process.

    Raises:
        InputError: torchrun started several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"nexus {command} runs in one process: start it without torchrun")


def checked_settings(given: dict[str, Any], *, greedy: bool) -> dict[str, Any]:
    """The settings of a call, checked before anything is loaded.

    Raises:
        InputError: a value out of range, or one that --greedy leaves without effect.
    """
    from nexus_universal.generation.settings import GenerationSettings

    drawing = [key for key in ("temperature", "top_k", "top_p", "min_p") if given[key] is not None]
    if greedy and drawing:
        raise InputError(f"--{drawing[0].replace('_', '-')} has no effect with --greedy")
    if drawing:
        given = given | {"do_sample": True}
    GenerationSettings().updated(given).validate()
    return given


def load(
    source: str,
    *,
    dtype: str,
    device: str,
    ignore_keys: list[str],
    with_tokenizer: bool,
    revision: str | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[UniversalTransformer, Any]:
    """Model and tokenizer; the tokenizer first, for it is quickly found to be missing. Ranks of a `mesh` share it."""
    hub = sources.of_hub(source, revision)
    sources.local_directory(source)
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.generation.text import load_tokenizer
        from nexus_universal.transformer import UniversalTransformer

        chosen = _device(device)
        tokenizer = None
        if with_tokenizer:
            progress("loading the tokenizer")
            tokenizer = load_tokenizer(source, **hub)
    reading = {"dtype": dtype, "device": chosen if mesh is None else "cpu", "ignore_keys": ignore_keys}
    model = UniversalTransformer.from_pretrained(source, **reading, **hub)
    if mesh is not None:
        from nexus_universal.integrations.tensor_parallel import parallelise

        model = parallelise(model, mesh, device=chosen)
    return model, tokenizer


def _device(name: str) -> torch.device:
    """A device that this machine has.

    Raises:
        InputError: it has not.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"device {name!r} cannot be used here ({reason})") from None
    return device
