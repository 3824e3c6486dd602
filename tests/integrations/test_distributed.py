"""Two processes on CPU compute what one does, forward and backward: dense, experts, latent, recurrent."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from nexus_universal.architecture.errors import InputError
from nexus_universal.integrations.distributed import shard_fully
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal

WORLD = 2
LENGTH = 12


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1)[..., 0].mean()


def one_rank(rank: int, port: int, model_type: str, found: Any) -> None:
    """What this rank's row gives, sharded and whole, and the gradients of both rows."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    try:
        whole = universal(reference(model_type)).train()
        sharded = shard_fully(universal(reference(model_type)).train(), init_device_mesh("cpu", (WORLD,)))
        tokens = ids(WORLD, LENGTH)
        expected, logits = whole(tokens).logits, sharded(tokens[rank : rank + 1]).logits
        far = float((expected[rank : rank + 1] - logits).abs().max())
        loss_of(expected).backward()
        loss_of(logits).backward()
        gradients = dict(whole.named_parameters())
        worst, held = 0.0, 0
        for name, parameter in sharded.named_parameters():
            held += parameter.to_local().numel()  # type: ignore[attr-defined]
            if parameter.grad is not None:
                right = gradients[name].grad
                assert right is not None
                gap = (parameter.grad.full_tensor() - right).abs().max() / (right.abs().max() + 1e-6)  # type: ignore[attr-defined]
                worst = max(worst, float(gap))
        found[rank] = far, worst, held / sum(p.numel() for p in whole.parameters())
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "deepseek_v3", "qwen3_next"])
def test_two_processes_compute_what_one_does(model_type: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with multiprocessing.Manager() as manager:
        found = manager.dict()
        multiprocessing.spawn(one_rank, (port, model_type, found), nprocs=WORLD)
        for far, worst, share in dict(found).values():
            assert far < 1e-4 and worst < 1e-3
            assert share < 0.6, "each holds half"


@pytest.mark.parametrize("model_type", ["zamba2", "hrm_text"])
def test_shared_weights_are_refused(model_type: str) -> None:
    with pytest.raises(InputError, match="layers of this n share weights"):
        shard_fully(universal(reference(model_type)), None)  # type: ignore[arg-type]
