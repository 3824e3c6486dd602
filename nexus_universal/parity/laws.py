"""Laws that hold beyond any reference: how a sequence is cut, batched or ordered changes nothing."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.cache import Cache
from nexus_universal.parity.modes import Sample, positions_of
from nexus_universal.transformer import UniversalTransformer


@dataclass(frozen=True)
class Law:
    """One law, how far it is missed, and how far it may be."""

    name: str
    difference: float
    floor: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.floor


@torch.no_grad()
def check_laws(model: UniversalTransformer, sample: Sample, *, floor: float, cuttable: bool = True) -> list[Law]:
    """Every law on one sample.

    Where a law compares equal computations, it must hold bit by bit: its floor is 0. Experts are the exception: what a
    pad or a later token holds decides how many rows an expert multiplies at once, and so which kernel it takes. Laws of
    cutting are left out where n is not `cuttable`.
    """
    has_experts = any(
        isinstance(branch.part, MixtureOfExperts | ChainedExperts)
        for layer in model.n.layers
        for branch in layer.branches()
    )
    bitwise = floor if has_experts else 0.0
    ids, full = sample.ids, model(sample.ids).logits
    laws: list[Law] = []

    def add(name: str, left: Tensor, right: Tensor, allowed: float = floor) -> None:
        laws.append(Law(name, float((left.double() - right.double()).abs().max()), allowed))

    def read(pieces: list[int], rows: Tensor = ids, cache: Cache | None = None) -> Tensor:
        cache = model.new_cache() if cache is None else cache
        return torch.cat([model(piece, cache=cache).logits for piece in rows.split(pieces, dim=1)], dim=1)

    if cuttable:
        add("chunks = full", read(list(sample.chunks)), full)
        add("steps = full", read([sample.prompt, *(1,) * (ids.shape[1] - sample.prompt)]), full)
    for side in ("left", "right"):
        mask = sample.mask(side)
        out = model(ids, mask, positions_of(mask)).logits
        for row in range(len(sample.lengths)):
            alone = ids[row : row + 1, mask[row].bool()]
            add(f"{side}-padded row = alone", out[row, mask[row].bool()], model(alone).logits[0])
        noise = torch.where(mask.bool(), ids, (ids + 7) % model.n.d_vocab)
        changed = model(noise, mask, positions_of(mask)).logits
        add(f"{side} pads say nothing", out[mask.bool()], changed[mask.bool()], bitwise)
    shortest = min((window for window in model.plan.windows if window is not None), default=ids.shape[1])
    if cuttable:
        add("right-padded prompt continued = alone", *_ragged_continuation(model, sample.cut(shortest)))
    order = torch.arange(ids.shape[0] - 1, -1, -1)
    add("permuted batch = permuted logits", model(ids[order]).logits, full[order])
    later = ids.clone()
    later[:, sample.prompt :] = (later[:, sample.prompt :] + 3) % model.n.d_vocab
    add("the future changes nothing", model(later).logits[:, : sample.prompt], full[:, : sample.prompt], bitwise)

    cache = model.new_cache()
    model(ids[:, : sample.prompt], cache=cache)
    fork = cache.fork()
    onward = read([1] * 3, ids[:, sample.prompt : sample.prompt + 3], cache)
    add("a fork continues alike", read([1] * 3, ids[:, sample.prompt : sample.prompt + 3], fork), onward, 0.0)
    add("a saved state continues alike", _saved_continuation(model, sample), onward, 0.0)
    return laws


def _ragged_continuation(model: UniversalTransformer, sample: Sample) -> tuple[Tensor, Tensor]:
    """A right-padded prompt continued by one token per row, against each row alone."""
    ids, prompt = sample.ids[:, :-1], sample.mask("right")[:, :-1]
    lengths = prompt.sum(-1, keepdim=True)
    cache = model.new_cache()
    model(ids, prompt, positions_of(prompt), cache=cache)
    step = sample.ids[:, -1:]
    mask = torch.cat([prompt, torch.ones_like(step)], dim=1)
    out = model(step, mask, lengths, cache=cache).logits[:, 0]
    alone = [
        model(torch.cat([ids[row : row + 1, : int(length)], step[row : row + 1]], dim=1)).logits[0, -1]
        for row, length in enumerate(lengths)
    ]
    return out, torch.stack(alone)


def _saved_continuation(model: UniversalTransformer, sample: Sample) -> Tensor:
    cache = model.new_cache()
    model(sample.ids[:, : sample.prompt], cache=cache)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cache.safetensors"
        cache.save(path)
        cache = Cache.load(path, model.new_cache)
    steps = sample.ids[:, sample.prompt : sample.prompt + 3].split(1, dim=1)
    return torch.cat([model(step, cache=cache).logits for step in steps], dim=1)
