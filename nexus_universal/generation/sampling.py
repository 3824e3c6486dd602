"""From logits to the next ids: penalty, temperature, top-k, top-p, min-p, in the reference's order and arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.generation.settings import GenerationSettings

Scores = Float[Tensor, "batch d_vocab"]
Warper = Callable[[Scores], Scores]


def penalised(
    scores: Scores,
    ids: Int[Tensor, "batch seq"],
    *,
    penalty: float,
    first: Int[Tensor, " batch"] | None = None,
) -> Scores:
    """Divide positive scores of ids in the text by `penalty`, multiply negative ones; before `first` is no text."""
    vocab = scores.shape[-1]
    if first is not None:
        positions = torch.arange(ids.shape[1], device=ids.device)
        ids = ids.masked_fill(positions[None, :] < first[:, None], vocab)
    seen = torch.zeros((scores.shape[0], vocab + 1), dtype=torch.bool, device=scores.device)
    seen.scatter_(1, ids.clamp(max=vocab).long(), True)
    return torch.where(seen[:, :vocab], torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def keep_top_k(scores: Scores, k: int) -> Scores:
    """All but the `k` best become -inf; what ties with the last of them stays."""
    least = torch.topk(scores, min(k, scores.shape[-1]))[0][..., -1, None]
    return scores.masked_fill(scores < least, -torch.inf)


def keep_top_p(scores: Scores, p: float) -> Scores:
    """Keep the fewest best whose probabilities sum up to `p` or more, the best at least."""
    ascending, order = torch.sort(scores, descending=False)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= (1 - p)
    removed[..., -1:] = False
    return scores.masked_fill(removed.scatter(1, order, removed), -torch.inf)


def keep_min_p(scores: Scores, p: float) -> Scores:
    """Keep what is at least `p` times as probable as the best."""
    probabilities = torch.softmax(scores, dim=-1)
    removed = probabilities < p * probabilities.amax(dim=-1, keepdim=True)
    return scores.masked_fill(removed, -torch.inf)


def warpers(settings: GenerationSettings) -> list[Warper]:
    """What sampling does to the scores, in order; a setting without effect is left out."""
    found: list[Warper] = []
    if settings.temperature != 1.0:
        found.append(lambda scores: scores / settings.temperature)
    if settings.top_k != 0:
        found.append(lambda scores: keep_top_k(scores, settings.top_k))
    if settings.top_p < 1.0:
        found.append(lambda scores: keep_top_p(scores, settings.top_p))
    min_p = settings.min_p
    if min_p is not None:
        found.append(lambda scores: keep_min_p(scores, min_p))
    return found


class Sampler:
    """Chooses the next id of every row. With a seed it draws from a generator of its own, else from torch's."""

    def __init__(
        self, settings: GenerationSettings, *, device: torch.device, first: Int[Tensor, " batch"] | None = None
    ) -> None:
        self.settings = settings
        self.first = first
        self.warpers = warpers(settings) if settings.do_sample else []
        self.random: torch.Generator | None = None
        if settings.do_sample and settings.seed is not None:
            self.random = torch.Generator(device=device).manual_seed(settings.seed)

    def __call__(self, ids: Int[Tensor, "batch seq"], logits: Scores) -> Int[Tensor, " batch"]:
        """The next ids; `logits` are float32, `ids` all ids so far."""
        scores = logits
        if self.settings.repetition_penalty != 1.0:
            scores = penalised(scores, ids, penalty=self.settings.repetition_penalty, first=self.first)
        for warp in self.warpers:
            scores = warp(scores)
        if not self.settings.do_sample:
            return torch.argmax(scores, dim=-1)
        probabilities = torch.nn.functional.softmax(scores, dim=-1)
        return torch.multinomial(probabilities, num_samples=1, generator=self.random).squeeze(1)
