"""What a changed model still does like the one it came from, on given text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.retention import Evidence, evidence_of
from nexus_universal.transformer import UniversalTransformer

Ids = Int[Tensor, "batch seq"]


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """KL(source ‖ changed) in nats per token, the share of likeliest tokens that changed, and both models' scores."""

    kl: float
    flips: float
    accuracy: tuple[float, float]
    """Next tokens guessed right: the source, the changed model."""
    loss: tuple[float, float]
    """Nats per token: the source, the changed model."""

    def __str__(self) -> str:
        kept = "accuracy {:.3f} → {:.3f}".format(*self.accuracy)
        return f"KL {self.kl:.3g} nats, {self.flips:.1%} flips, {kept}, " + "loss {:.3f} → {:.3f}".format(*self.loss)


@torch.no_grad()
def logits_of(model: UniversalTransformer, ids: Ids) -> Float[Tensor, "batch seq d_vocab"]:
    """Logits in float32, row by row, so that no batch is larger than one text.

    Raises:
        InputError: texts of one token foretell nothing.
    """
    if ids.dim() != 2 or ids.shape[1] < 2 or not len(ids):
        raise InputError(f"ids of shape {tuple(ids.shape)}: at least one row of two tokens is needed")
    return torch.cat([model(row[None]).logits.float() for row in ids.to(model.device)])


def fidelity(
    before: Float[Tensor, "batch seq d_vocab"], after: Float[Tensor, "batch seq d_vocab"], ids: Ids
) -> tuple[Fidelity, Evidence]:
    """What is left of `before` in `after`, both models' logits of `ids`; and the same as evidence of retention."""
    evidence = evidence_of("source", before, after)
    assert evidence.logits is not None
    found = Fidelity(
        kl=evidence.logits.kl,
        flips=evidence.logits.flips / before[..., 0].numel(),
        accuracy=(accuracy(before, ids), accuracy(after, ids)),
        loss=(loss(before, ids), loss(after, ids)),
    )
    return found, evidence


def accuracy(logits: Float[Tensor, "batch seq d_vocab"], ids: Ids) -> float:
    """Share of next tokens that are the likeliest."""
    return float((logits[:, :-1].argmax(-1) == ids[:, 1:].to(logits.device)).float().mean())


def loss(logits: Float[Tensor, "batch seq d_vocab"], ids: Ids) -> float:
    """Mean cross-entropy of next tokens in nats."""
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device)))
