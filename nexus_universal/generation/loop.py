"""The loop: prefill, choose, feed back. It runs any callable model with the face of `LanguageModel`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Unpack, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.generation.prompt import Prompt, prepare
from nexus_universal.generation.sampling import Sampler
from nexus_universal.generation.settings import CallSettings, GenerationSettings
from nexus_universal.generation.stopping import StopStrings


@runtime_checkable
class LanguageModel(Protocol):
    """What the loop needs of a model; `UniversalTransformer` has it."""

    n: ArchitectureParameter
    settings: GenerationSettings

    def new_cache(self, batch_size: int = 1) -> Any: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


@runtime_checkable
class Streamer(Protocol):
    """What ids are handed to as they come: the prompt [batch, seq], then one id per row. Those of transformers fit."""

    def put(self, value: Tensor) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Step:
    """One new id per row, and which rows go on after it."""

    ids: Int[Tensor, " batch"]
    running: Bool[Tensor, " batch"]


def generate(
    model: LanguageModel,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    *,
    tokenizer: Any = None,
    streamer: Streamer | None = None,
    cache: Any = None,
    **settings: Unpack[CallSettings],
) -> Int[Tensor, "batch total"]:
    """Prompt and continuation, as transformers' `generate` returns it: rows that end early are filled with the pad.

    `settings` are those of `CallSettings`; what a call leaves out comes from the checkpoint. Batches are padded on the
    left. Stop strings need the `tokenizer`. A `streamer` gets the prompt, then the ids as they come. A `cache` that has
    already read the beginning of these very ids is extended in place, and only the rest of the prompt is read.

    Raises:
        InputError: ids, mask, lengths or settings that cannot work, before anything is computed.
        UnsupportedConfig: the checkpoint's generation_config.json asks for what is not done here, such as beam search.

    Example:
        >>> model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=12, do_sample=True, top_p=0.9, seed=0)
    """
    steps = stream(model, input_ids, attention_mask, tokenizer=tokenizer, cache=cache, **settings)
    if streamer is not None:
        streamer.put(input_ids.cpu())
    pieces = [input_ids]
    for step in steps:
        pieces.append(step.ids[:, None])
        if streamer is not None:
            streamer.put(step.ids.cpu())
    if streamer is not None:
        streamer.end()
    return torch.cat(pieces, dim=-1)


def stream(
    model: LanguageModel,
    input_ids: Int[Tensor, "batch seq"],
    attention_mask: Int[Tensor, "batch seq"] | Bool[Tensor, "batch seq"] | None = None,
    *,
    tokenizer: Any = None,
    cache: Any = None,
    **settings: Unpack[CallSettings],
) -> Iterator[Step]:
    """The same ids as `generate`, step by step as they come. Bad input is refused by this call, not by the first step.

    Raises:
        InputError: as `generate`.
        UnsupportedConfig: as `generate`.
    """
    asked = model.settings.updated(settings).validate()
    stop = StopStrings(asked.stop_strings, tokenizer) if asked.stop_strings else None
    prompt = prepare(model.n, input_ids, attention_mask, asked)
    read = cache.length if cache is not None else 0
    if not read < input_ids.shape[1]:
        raise InputError(f"the cache has read {read} positions: input_ids must be longer, not {input_ids.shape[1]}")
    if cache is None and asked.use_cache:
        cache = model.new_cache(input_ids.shape[0])
    return _steps(model, prompt, asked, stop, cache=cache, read=read)


def _steps(
    model: LanguageModel,
    prompt: Prompt,
    settings: GenerationSettings,
    stop: StopStrings | None,
    *,
    cache: Any,
    read: int,
) -> Iterator[Step]:
    """Bookkeeping stays where the prompt is; only what the model reads is moved to it."""
    ids, mask, positions = prompt.ids, prompt.mask, prompt.positions
    device = getattr(model, "device", ids.device)
    choose = Sampler(settings, device=ids.device, first=prompt.first)
    eos = torch.tensor(settings.eos, dtype=torch.long, device=ids.device)
    running = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
    fresh, beyond = ids[:, read:], model.n.text.reread_beyond
    while True:
        with torch.no_grad():
            output = model(
                fresh.to(device),
                attention_mask=None if mask is None else mask.to(device),
                position_ids=positions[:, -fresh.shape[1] :].to(device),
                cache=cache,
                logits_to_keep=1,
            )
            chosen = choose(ids, output.logits[:, -1].to(dtype=torch.float32, device=ids.device))
            if settings.eos and settings.fill is not None:
                chosen = torch.where(running, chosen, settings.fill)
            ids = torch.cat([ids, chosen[:, None]], dim=-1)
            ended = torch.isin(chosen, eos)
            if stop is not None:
                ended |= stop(ids)
            running = running & ~ended & (ids.shape[1] < prompt.limit)
        yield Step(ids=chosen, running=running)
        if not bool(running.any()):
            return
        positions = torch.cat([positions, positions[:, -1:] + 1], dim=-1)
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones((mask.shape[0], 1))], dim=-1)
        if cache is not None and beyond is not None and cache.length <= beyond < ids.shape[1]:
            cache, fresh = model.new_cache(ids.shape[0]), ids
        else:
            fresh = ids if cache is None else ids[:, -1:]
