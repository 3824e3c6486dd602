"""What commands that run a model begin with: settings checked before anything is loaded, then model and tokenizer."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
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
    capability: str | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[UniversalTransformer, Any]:
    """Model and tokenizer; the tokenizer first, for it is quickly found to be missing. Ranks of a `mesh` share it.

    `capability` names the branch of a union file, whose first it is otherwise.

    Raises:
        InputError: a capability of what is no union, or one that it lacks.
    """
    hub, union = sources.of_hub(source, revision), sources.has_branches(source, capability)
    if not union:
        sources.local_directory(source)
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.transformer import UniversalTransformer

        chosen = _device(device)
        at = chosen if mesh is None else "cpu"
        tokenizer = _tokenizer(source, capability, union=union, **hub) if with_tokenizer else None
    if union:
        model = _branch(source, capability, dtype=dtype, device=at)
    else:
        model = UniversalTransformer.from_pretrained(source, dtype=dtype, device=at, ignore_keys=ignore_keys, **hub)
    if mesh is not None:
        from nexus_universal.integrations.tensor_parallel import parallelise

        model = parallelise(model, mesh, device=chosen)
    return model, tokenizer


def routed(source: str, prompts: Sequence[str], *, capability: str | None, dtype: str, device: str) -> str:
    """The branch of a union that answers prompts, by its router; stderr says why, where nobody named it.

    Raises:
        InputError: prompts that are for different branches, or a capability that none has.
    """
    from nexus_universal.fusion.union.model import NexusUnifiedModel

    with output.status() as progress:
        progress("choosing a model")
        unified = NexusUnifiedModel(source, dtype=dtype, device=_device(device))
        routes = [unified.router.choose(prompt, capability=capability) for prompt in prompts]
    names = dict.fromkeys(route.name for route in routes)
    if len(names) > 1:
        raise InputError(
            f"these prompts are for several models of {source} ({', '.join(names)}): name one by --capability"
        )
    first = routes[0]
    if first.reason == "abstained":
        print(f"{first.name} answers: no model foretells the prompt clearly better", file=sys.stderr)
    elif first.reason == "bits_per_byte":
        print(f"{first.name} answers: it foretells the prompt best, by {first.margin:.1f} bits", file=sys.stderr)
    return first.name


def _tokenizer(source: str, capability: str | None, *, union: bool, **hub: Any) -> Any:
    if not union:
        from nexus_universal.generation.text import load_tokenizer

        return load_tokenizer(source, **hub)
    from nexus_universal.fusion.union.archive import Archive
    from nexus_universal.fusion.union.branch import load_branch_tokenizer

    archive = Archive(source)
    return load_branch_tokenizer(archive, capability or next(iter(archive.branches)))


def _branch(source: str, capability: str | None, *, dtype: str, device: str | torch.device) -> UniversalTransformer:
    """One branch of a union file."""
    from nexus_universal.fusion.union.archive import Archive
    from nexus_universal.fusion.union.branch import load_branch

    archive = Archive(source)
    return load_branch(archive, capability or next(iter(archive.branches)), dtype=dtype, device=device)


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
