"""Over several processes, on PyTorch's own engine: what is sharded follows from n, never from a model's name."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from nexus_universal.architecture.errors import InputError
from nexus_universal.transformer import UniversalTransformer


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
    if hasattr(model, "shared"):
        raise InputError("layers of this n share weights: they are not sharded by layer")
    policy = precision or MixedPrecisionPolicy()
    for part in (*model.layers, model):
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    return model
