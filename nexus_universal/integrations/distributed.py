"""Over several processes, on PyTorch's own engine: what is sharded follows from n, never from a model's name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from nexus_universal.architecture.errors import InputError, RankLost
from nexus_universal.transformer import UniversalTransformer

PATIENCE = timedelta(minutes=5)
"""How long a rank waits for the others before it gives up."""

OF_OTHERS = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "timeout")
"""Words of errors that say of another rank that it is gone or silent; gloo's have no class of their own."""


@contextmanager
def joined_ranks(device: str | torch.device = "cpu", *, patience: timedelta = PATIENCE) -> Iterator[DeviceMesh]:
    """All processes that `torchrun` started, as a mesh of one dimension; this one computes on `device`, or its GPU.

    Example:
        >>> with joined_ranks("cuda") as mesh:
        ...     model = parallelise(UniversalTransformer.from_pretrained(path), mesh)

    Raises:
        RankLost: another rank ended, or did not answer for as long as `patience`.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=patience)
        yield init_device_mesh(kind, (dist.get_world_size(),))
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, dist.DistError) or any(word in str(error).lower() for word in OF_OTHERS):
            waited = f"{patience.total_seconds():g} s"
            raise RankLost(f"another rank ended, or did not answer for {waited} ({reason})") from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def shard_fully(
    model: UniversalTransformer,
    mesh: DeviceMesh,
    *,
    precision: MixedPrecisionPolicy | None = None,
    reshard_after_forward: bool = True,
) -> UniversalTransformer:
    """Shard parameters, gradients and optimiser states layer by layer (FSDP2), in place; returns the model.

    Example:
        >>> mesh = init_device_mesh("cuda", (torch.distributed.get_world_size(),))
        >>> shard_fully(UniversalTransformer.from_pretrained(path), mesh)

    Raises:
        InputError: layers share weights, which a layer would free that another needs.
    """
    branches = [module for module in model.modules() if isinstance(module, UniversalTransformer)]
    if any(hasattr(branch, "shared") for branch in branches):
        raise InputError("layers of this n share weights: they are not sharded by layer")
    policy = precision or MixedPrecisionPolicy()
    for part in (*(layer for branch in branches for layer in branch.layers), model):
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    return model
