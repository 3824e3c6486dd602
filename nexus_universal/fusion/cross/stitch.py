"""Maps from a donor's residual to the host's, found from both models' states of the same text.

In closed form that works only where representations agree, mostly at a model's ends; inside, bridges must be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.cross.align import Batch
from nexus_universal.fusion.cross.config import CrossFusionConfig
from nexus_universal.fusion.cross.manager import CrossFusionManager
from nexus_universal.layers.bridge import UniversalBridge, UniversalCrossAttention, UniversalSimilarity
from nexus_universal.layers.memories import remembered

States = Float[Tensor, "tokens width"]
Map = Float[Tensor, "d_host d_donor"]


@torch.no_grad()
def paired_states(manager: CrossFusionManager, path: str, batch: Batch) -> tuple[States, States]:
    """What the donor and the host have at a bridge, token by token: pads, and what the donor has not read, left out.

    Raises:
        InputError: no bridge at this path.
    """
    bridge, model = bridge_at(manager, path), manager.model
    with model.record(f"{path}.input") as seen:
        model(**batch.call)
    mask, inputs = batch.attention_mask, {"positions": None, "cache": None, "donors": batch.donors}
    memories = remembered(model.plan.bridges, model.members, batch.input_ids, mask=mask, **inputs)
    if memories is None:
        raise InputError("bridges are bypassed: nothing is read of a donor")
    states, found = memories.latest(bridge.part)
    real = torch.ones_like(batch.input_ids, dtype=torch.bool) if mask is None else mask.bool()
    real = real if found is None else real & found.squeeze(-1)
    return states[real], seen[f"{path}.input"][real]


def bridge_at(manager: CrossFusionManager, path: str) -> UniversalBridge:
    """The bridge at a path.

    Raises:
        InputError: there is none.
    """
    if path not in manager.model.n.bridges:
        raise InputError(f"{path!r} is no bridge (known: {', '.join(manager.model.n.bridges)})")
    module = manager.model.get_submodule(path)
    assert isinstance(module, UniversalBridge)
    return module


def ridge(donor: States, host: States, *, strength: float = 1e-3) -> Map:
    """argmin ‖Z Pᵀ - H‖² + λ ‖P‖², where λ is `strength` times the mean square of a donor's channel, summed."""
    z, h = donor.double(), host.double()
    gram = z.T @ z
    penalty = strength * gram.diagonal().mean() * torch.eye(len(gram), dtype=z.dtype, device=z.device)
    return torch.linalg.solve(gram + penalty, z.T @ h).T.to(host)


def contrast(
    donor: States,
    host: States,
    *,
    width: int = 64,
    steps: int = 200,
    rows: int = 128,
    lr: float = 1e-2,
    temperature: float = 0.07,
    strength: float = 1e-3,
    seed: int = 0,
) -> Map:
    """Directions in which tokens are told from others alike in both models, by symmetric InfoNCE (arXiv 1807.03748).

    Two maps to a common space of `width` are trained; what returns is the donor's, and from there by ridge to the host.
    """
    generator = torch.Generator().manual_seed(seed)
    centred = [(states - states.mean(0)).float() for states in (donor, host)]
    maps = [torch.randn(each.shape[1], width, generator=generator) * each.shape[1] ** -0.5 for each in centred]
    maps = [one.to(donor.device).requires_grad_() for one in maps]
    adam = torch.optim.Adam(maps, lr=lr)
    for _ in range(steps):
        chosen = torch.randint(len(donor), (min(rows, len(donor)),), generator=generator).to(donor.device)
        with torch.enable_grad():
            z, h = (F.normalize(each[chosen] @ one, dim=-1) for each, one in zip(centred, maps, strict=True))
            scores, own = z @ h.T / temperature, torch.arange(len(chosen), device=donor.device)
            loss = F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)
            adam.zero_grad()
            loss.backward()
        adam.step()
    common = donor.float() @ maps[0].detach()
    return ridge(common, host, strength=strength) @ maps[0].detach().T.to(host)


@torch.no_grad()
def begin_with(manager: CrossFusionManager, path: str, found: Map) -> None:
    """Let a bridge begin with a map: a similarity takes it as it is; others read in its strongest directions first."""
    form = bridge_at(manager, path).form
    if isinstance(form, UniversalSimilarity):
        form.output.weight.copy_(found)
        return
    _, _, directions = torch.linalg.svd(found.float(), full_matrices=False)
    names = ("key", "value") if isinstance(form, UniversalCrossAttention) else ("gate", "up")
    for reader in (form._modules.get(name) for name in names):
        if isinstance(reader, nn.Linear):
            rows = min(len(directions), reader.out_features)
            reader.weight[:rows] = directions[:rows].to(reader.weight)


def fit(manager: CrossFusionManager, config: CrossFusionConfig, batch: Batch) -> None:
    """Find the maps of a donor's bridges, one after the other: by contrast, if that is their kind, else by ridge."""
    for path, bridge in manager.model.n.bridges.items():
        if bridge.donor == config.donor:
            states = paired_states(manager, path, batch)
            begin_with(manager, path, contrast(*states) if config.kind == "contrastive" else ridge(*states))


@torch.no_grad()
def line_search(
    manager: CrossFusionManager,
    path: str,
    loss: Callable[[], float],
    *,
    strengths: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99),
) -> dict[float, float]:
    """Open a bridge's gate as far as a loss falls most, and not at all where it never does; all losses are returned.

    Raises:
        InputError: a bridge without such a gate (zero = "out").
    """
    gate = bridge_at(manager, path).gate
    if gate is None:
        raise InputError(f"{path} has no gate to open: its zero is 'out'")
    tried: dict[float, float] = {}
    for strength in (0.0, *strengths):
        gate.fill_(torch.atanh(torch.tensor(strength)).item())
        tried[strength] = loss()
    gate.fill_(torch.atanh(torch.tensor(min(tried, key=tried.__getitem__))).item())
    return tried
