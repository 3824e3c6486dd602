"""Training of bridges, and of nothing else, while what the host does on its own inputs is held."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.cross.align import Batch
from nexus_universal.fusion.cross.config import RETENTION, KLReplay
from nexus_universal.fusion.cross.manager import CrossFusionManager, bridge_names


@dataclass(frozen=True, slots=True)
class Losses:
    """What one step was taken for: the task's cross-entropy and the divergence from the host, in nats per token."""

    task: float
    replay: float


class CrossFusionOptimizer:
    """AdamW (arXiv 1711.05101) over the bridges' tensors, or those of them that are named.

    Freezing the host does not keep what it can: with trained bridges its own inputs are read differently. `retention`
    adds what that costs, KL(host ‖ with bridges), measured on `replay` inputs at every step.

    Example:
        >>> optimizer = CrossFusionOptimizer(manager, lr=1e-3)
        >>> optimizer.step(Batch(ids), labels, replay=Batch(ids_of_the_host))

    Raises:
        InputError: a name that is no bridge's.
    """

    def __init__(
        self,
        manager: CrossFusionManager,
        names: Iterable[str] | None = None,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        clip: float = 1.0,
        retention: KLReplay | None = RETENTION,
    ) -> None:
        known = bridge_names(manager.model)
        for name in names or ():
            if name not in known:
                what = "belongs to a backbone" if name in dict(manager.model.named_parameters()) else "is no tensor"
                raise InputError(f"{name} {what}: only bridges are trained ({', '.join(manager.model.n.bridges)})")
        self.manager, self.retention, self.clip = manager, retention, clip
        self.parameters = [known[name] for name in (known if names is None else names)]
        self.adamw = torch.optim.AdamW(self.parameters, lr=lr, weight_decay=weight_decay)

    def step(self, batch: Batch, labels: Int[Tensor, "batch seq"], *, replay: Batch | None = None) -> Losses:
        """One step on a batch whose `labels` are the ids to be foretold where they stand, -100 where that is not asked.

        Raises:
            InputError: nothing to replay, although retention is asked for.
        """
        self.adamw.zero_grad(set_to_none=True)
        loss, losses = self.losses(batch, labels, replay=replay)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.adamw.step()
        return losses

    def losses(
        self, batch: Batch, labels: Int[Tensor, "batch seq"], *, replay: Batch | None = None
    ) -> tuple[Float[Tensor, ""], Losses]:
        """What a step descends, and its two parts."""
        if (replay is None) != (self.retention is None):
            raise InputError(
                "retention = KLReplay(…) needs replay inputs of the host, and they need it: give both or none"
            )
        logits = self.manager.model(**batch.call).logits
        task = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        if replay is None or self.retention is None:
            return task, Losses(float(task.detach()), 0.0)
        held = divergence(self.manager, replay)
        return task + self.retention.weight * held, Losses(float(task.detach()), float(held.detach()))


def divergence(manager: CrossFusionManager, batch: Batch) -> Float[Tensor, ""]:
    """KL(host ‖ with bridges) per token that is no pad, in nats."""
    with torch.no_grad(), manager.bypass() as host:
        wanted = host(**batch.call).logits.log_softmax(-1)
    found = manager.model(**batch.call).logits.log_softmax(-1)
    each = F.kl_div(found, wanted, log_target=True, reduction="none").sum(-1)
    return each.mean() if batch.attention_mask is None else each[batch.attention_mask.bool()].mean()
