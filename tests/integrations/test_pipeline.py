"""Two stages compute what one process does, forward and backward, micro-batch by micro-batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import ScheduleGPipe

from nexus_universal.integrations.pipeline import pipeline_stage
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal
from tests.integrations.processes import run_ranks

BATCH, LENGTH, PIECES = 4, 10, 2
TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "dense": ("qwen3", {}),
    "tied": ("qwen3", {"tie_word_embeddings": True}),
    "experts": ("qwen3_moe", {}),
    "latent": ("glm4_moe_lite", {}),
}
FURTHER = {
    name: (name, {}) for name in ("qwen3_next", "mamba", "gpt2", "gemma3_text", "falcon_h1", "bart", "longcat_flash")
}


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())


def two_stages(rank: int, types: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, tuple[bool, float, float]]:
    """Of each type: are logits equal, how far the mean loss is, and the gradients of this stage."""
    mesh, found = init_device_mesh("cpu", (2,)), {}
    for name, (model_type, changes) in types.items():
        whole = universal(reference(model_type, **changes)).train()
        cut = universal(reference(model_type, **changes)).train()
        tokens = ids(BATCH, LENGTH)
        stage, tied = pipeline_stage(cut, mesh, rows=BATCH // PIECES, length=LENGTH)
        schedule = ScheduleGPipe(stage, n_microbatches=PIECES, loss_fn=loss_of)
        losses: list[torch.Tensor] = []
        logits = schedule.step(tokens) if rank == 0 else schedule.step(target=tokens, losses=losses)
        tied.sum_gradients()
        pieces = [whole(piece).logits for piece in tokens.chunk(PIECES)]
        (sum(loss_of(a, b) for a, b in zip(pieces, tokens.chunk(PIECES), strict=True)) / PIECES).backward()  # type: ignore[union-attr]
        gradients = {key: each.grad for key, each in whole.named_parameters() if each.grad is not None}
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        worst = 0.0
        for key, parameter in stage.submod.named_parameters():
            right = gradients["embedding.tokens.weight" if key == "table" else key]
            assert parameter.grad is not None, key
            worst = max(worst, float((parameter.grad - right).abs().max()) / largest)
        equal, far = True, 0.0
        if rank == 1:
            equal = torch.equal(logits, torch.cat(pieces))
            far = abs(
                float(sum(loss.detach() for loss in losses)) / PIECES
                - float(loss_of(torch.cat(pieces), tokens).detach())
            )
        found[name] = equal, far, worst
    return found


@pytest.mark.parametrize("types", [TYPES, pytest.param(FURTHER, marks=pytest.mark.slow)], ids=["chosen", "further"])
def test_two_stages_compute_what_one_process_does(types: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """The very same modules run: logits have the same bits; gradients are summed in another order only where tied."""
    for found in run_ranks(two_stages, types):
        assert found.keys() == types.keys()
        for name, (equal, far, worst) in found.items():
            assert equal, name
            assert far < 1e-5 and worst < 1e-6, (name, far, worst)
