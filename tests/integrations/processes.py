"""Processes that talk over gloo on this machine, as ranks of a job do.

They fork from a server that has imported what they need: that takes longer than all they do.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

SERVED = multiprocessing.get_context("forkserver")
SERVED.set_forkserver_preload(["tests.helpers", "nexus_universal.integrations.tensor_parallel"])
PATIENCE = timedelta(seconds=60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(job: Callable[..., Any], *args: Any, world: int = 2) -> list[Any]:
    """What `job(rank, *args)` gives on each of `world` ranks."""
    with SERVED.Manager() as manager:
        found = manager.dict()
        start_processes(_one_rank, (free_port(), world, job, args, found), nprocs=world, start_method="forkserver")
        return [found[rank] for rank in range(world)]


def _one_rank(rank: int, port: int, world: int, job: Callable[..., Any], args: tuple[Any, ...], found: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=PATIENCE)
    try:
        found[rank] = job(rank, *args)
    finally:
        dist.destroy_process_group()
