"""What commands that run a model begin with: settings checked before anything is loaded, then model and tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.errors import InputError
from nexus_universal.cli import output, sources

if TYPE_CHECKING:
    import torch

    from nexus_universal.transformer import UniversalTransformer


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
) -> tuple[UniversalTransformer, Any]:
    """Model and tokenizer; the tokenizer first, for it is quickly found to be missing.

    `capability` names the branch of a union file, whose first it is otherwise.

    Raises:
        InputError: a capability of what is no union, or one that it lacks.
    """
    hub = sources.of_hub(source, revision)
    if sources.has_branches(source, capability):
        return _branch(source, capability, dtype=dtype, device=device, with_tokenizer=with_tokenizer)
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
    model = UniversalTransformer.from_pretrained(source, dtype=dtype, device=chosen, ignore_keys=ignore_keys, **hub)
    return model, tokenizer


def _branch(
    source: str, capability: str | None, *, dtype: str, device: str, with_tokenizer: bool
) -> tuple[UniversalTransformer, Any]:
    """One branch of a union file."""
    with output.status() as progress:
        progress("loading torch")
        from nexus_universal.fusion.union.archive import Archive
        from nexus_universal.fusion.union.branch import load_branch, load_branch_tokenizer

        chosen = _device(device)
        archive = Archive(source)
        name = capability or next(iter(archive.branches))
        tokenizer = load_branch_tokenizer(archive, name) if with_tokenizer else None
    return load_branch(archive, name, dtype=dtype, device=chosen), tokenizer


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
