"""Two processes on CPU compute what one does, forward and backward: dense, experts, latent, recurrent."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from nexus_universal.architecture.errors import InputError, RankLost
from nexus_universal.integrations.distributed import joined_ranks, shard_fully
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal
from tests.integrations.processes import SERVED, free_port, run_ranks

WORLD = 2
LENGTH = 12


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().log_softmax(-1)[..., 0].mean()


def one_rank(rank: int, model_type: str) -> tuple[float, float, float]:
    """What this rank's row gives, sharded and whole, and the gradients of both rows."""
    whole = universal(reference(model_type)).train()
    sharded = shard_fully(universal(reference(model_type)).train(), init_device_mesh("cpu", (WORLD,)))
    tokens = ids(WORLD, LENGTH)
    expected, logits = whole(tokens).logits, sharded(tokens[rank : rank + 1]).logits
    far = float((expected[rank : rank + 1] - logits).detach().abs().max())
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
    return far, worst, held / sum(p.numel() for p in whole.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "qwen3_moe", "deepseek_v3", "qwen3_next"])
def test_two_processes_compute_what_one_does(model_type: str) -> None:
    for far, worst, share in run_ranks(one_rank, model_type):
        assert far < 1e-4 and worst < 1e-3
        assert share < 0.6, "each holds half"


@pytest.mark.parametrize("model_type", ["zamba2", "hrm_text"])
def test_shared_weights_are_refused(model_type: str) -> None:
    with pytest.raises(InputError, match="layers of this n share weights"):
        shard_fully(universal(reference(model_type)), None)  # type: ignore[arg-type]


PATIENCE = 4.0


def rank_of(rank: int, port: int, silent: bool, told: Any) -> None:
    """The first rank sums with the second, which leaves it waiting."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if rank == 1 and not silent:
        return
    began = time.monotonic()
    try:
        with joined_ranks("cpu", patience=timedelta(seconds=PATIENCE)):
            if rank == 1:
                time.sleep(5 * PATIENCE)
            dist.all_reduce(torch.zeros(1))
    except RankLost as error:
        told.put((str(error), time.monotonic() - began))


@pytest.mark.slow
@pytest.mark.parametrize("silent", [True, False], ids=["silent", "never there"])
def test_nobody_waits_forever(silent: bool) -> None:
    told, port = SERVED.Queue(), free_port()
    ranks = [SERVED.Process(target=rank_of, args=(rank, port, silent, told)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    message, waited = told.get(timeout=60)
    for rank in ranks:
        rank.kill()
        rank.join()
    assert message.startswith("another rank ended, or did not answer for 4 s (") and "\n" not in message
    assert PATIENCE / 2 < waited < 5 * PATIENCE


def test_errors_of_ones_own_are_not_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    for key, value in told.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(RuntimeError, match="shapes") as caught, joined_ranks():
        torch.ones(2) @ torch.ones(3, 3)
    assert not isinstance(caught.value, RankLost)
    assert not dist.is_initialized()
