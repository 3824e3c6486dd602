"""Tensor parallelism on PyTorch's device meshes and DTensor: every rank runs the model of its share of n.

The plan (`architecture/tensor_parallel.py`) says which pieces a rank holds. What stands here is where vectors enter a
split module and where its ranks' outputs are summed, in both directions of autograd.
"""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.tensor_parallel import Cut, Split, TensorParallelPlan, tensor_parallel_plan
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.layers.ends import TokenTable, UniversalHead
from nexus_universal.layers.experts import Experts
from nexus_universal.layers.linear import Linear
from nexus_universal.transformer import UniversalTransformer


def entering(x: Float[Tensor, "*lead width"], mesh: DeviceMesh) -> Float[Tensor, "*lead width"]:
    """The same x, whose gradient is the sum of what all ranks' shares make of it."""
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False).to_local(grad_placements=[Partial()])


def summed(x: Float[Tensor, "*lead width"], mesh: DeviceMesh) -> Float[Tensor, "*lead width"]:
    """The sum of all ranks' x."""
    return DTensor.from_local(x, mesh, [Partial()], run_check=False).full_tensor()


def joined(x: Float[Tensor, "*lead share"], mesh: DeviceMesh) -> Float[Tensor, "*lead width"]:
    """All ranks' x side by side."""
    return DTensor.from_local(x, mesh, [Shard(x.dim() - 1)], run_check=False).full_tensor()


class SummedLinear(Linear):
    """A projection of which every rank has some columns; the bias is added to the sum."""

    mesh: DeviceMesh

    def forward(self, input: Float[Tensor, "*lead share"]) -> Float[Tensor, "*lead d_out"]:
        out = summed(F.linear(input, self.weight), self.mesh)
        return out if self.bias is None else out + self.bias


class SummedExperts(Experts):
    """Experts of which every rank has some channels; their last bias is added to the sum."""

    mesh: DeviceMesh

    def forward(
        self,
        x: Float[Tensor, "tokens d_hidden"],
        weights: Float[Tensor, "tokens k"],
        chosen: Int[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens d_hidden"]:
        bias, self._parameters["down_bias"] = self.down_bias, None
        try:
            out = summed(super().forward(*self._entering(x, weights), chosen), self.mesh)
        finally:
            self._parameters["down_bias"] = bias
        return out if bias is None else out + (weights.unsqueeze(-1) * bias[chosen]).sum(dim=1).to(out.dtype)

    def all_on_weighed(
        self,
        x: Float[Tensor, "tokens d_hidden"],
        weights: Float[Tensor, "tokens k"],
        chosen: Int[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens d_hidden"]:
        return summed(super().all_on_weighed(*self._entering(x, weights), chosen), self.mesh)

    def _entering(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return entering(x, self.mesh), entering(weights, self.mesh)


class SplitTable(TokenTable):
    """The rows from `first` on, of a table whose others are on other ranks."""

    mesh: DeviceMesh
    vocab: int
    first: int

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        if index.device.type == "cpu" and index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.vocab:
            raise IndexError("index out of range")  # as a table that has all rows would say
        here = index - self.first
        elsewhere = (here < 0) | (here >= self.weight.shape[0])
        rows = super().forward(here.masked_fill(elsewhere, 0))
        return summed(rows.masked_fill(elsewhere.unsqueeze(-1), 0.0), self.mesh)


class SplitHead(UniversalHead):
    """Logits of a rank's tokens, joined to those of all."""

    mesh: DeviceMesh

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], table: Float[Tensor, "rows d_table"] | None
    ) -> Float[Tensor, "batch seq logits"]:
        return joined(super().forward(entering(x, self.mesh), table), self.mesh)


SHARED_WORK: dict[type[nn.Module], type[nn.Module]] = {
    Linear: SummedLinear,
    Experts: SummedExperts,
    TokenTable: SplitTable,
    UniversalHead: SplitHead,
}
"""What a module becomes that works together with those of other ranks: the same tensors, another forward."""


class TensorParallelTransformer(UniversalTransformer):
    """One rank's model of an n that several compute: called, and generating, as the whole one.

    `n` is the whole n; parameters are this rank's pieces, under their usual names. All ranks must be called alike.
    """

    parallel: TensorParallelPlan
    mesh: DeviceMesh

    def piece(self, name: str, whole: Tensor) -> Tensor:
        """This rank's piece of the tensor `name`, or of anything of its shape."""
        cut = self.parallel.cuts.get(name)
        if cut is None:
            return whole
        spans = cut.spans(self.mesh.get_local_rank(), self.parallel.ways)
        return torch.cat([whole.narrow(cut.axis, *span) for span in spans], dim=cut.axis)

    def gathered(self, name: str, piece: Tensor) -> Tensor:
        """The whole of the tensor `name`, or of its gradient, from all ranks' pieces; every rank must ask."""
        if name not in self.parallel.cuts:
            return piece
        cut, ways = self.parallel.cuts[name], self.parallel.ways
        pieces = [torch.empty_like(piece, memory_format=torch.contiguous_format) for _ in range(ways)]
        dist.all_gather(pieces, piece.contiguous(), group=self.mesh.get_group())
        shape = list(piece.shape)
        shape[cut.axis] = sum(length for length, _ in cut.blocks)
        whole = piece.new_empty(shape)
        for rank, part in enumerate(pieces):
            spans = list(cut.spans(rank, ways))
            for (start, length), found in zip(spans, part.split([s for _, s in spans], dim=cut.axis), strict=True):
                whole.narrow(cut.axis, start, length).copy_(found)
        return whole

    def whole(self) -> UniversalTransformer:
        """The model of the whole n, gathered on every rank."""
        with torch.device("meta"):
            model = UniversalTransformer(self.n)
        for name, slot in slots(self).items():
            put(model, name, self.gathered(name, slot.detach()))
        model.settings, model.carried, model.passed_over = self.settings, self.carried, self.passed_over
        return model.train(self.training)

    def save_pretrained(self, directory: str | PathLike[str], **options: Any) -> None:
        """Gather, and write one checkpoint of the whole n, by the first rank: see `UniversalTransformer`."""
        whole = self.whole()
        if self.mesh.get_local_rank() == 0:
            whole.save_pretrained(directory, **options)
        dist.barrier(group=self.mesh.get_group())

    def clip_gradients(self, limit: float) -> float:
        """Scale all gradients so that their norm, over all ranks, is at most `limit`; returns the norm before."""
        squares = torch.zeros((), dtype=torch.float64, device=self.device)
        found = [(name, each.grad) for name, each in self.named_parameters() if each.grad is not None]
        for name, gradient in found:
            cut = self.parallel.cuts.get(name) or _one_piece(gradient)
            rows = gradient.split([length // pieces for length, pieces in cut.blocks], dim=cut.axis)
            for block, (_, pieces) in zip(rows, cut.blocks, strict=True):
                squares += block.double().square().sum() * pieces / self.parallel.ways  # what several hold counts once
        dist.all_reduce(squares, group=self.mesh.get_group())
        norm = math.sqrt(float(squares))
        if norm > limit:
            for _, gradient in found:
                gradient.mul_(limit / norm)
        return norm


def parallelise(
    model: UniversalTransformer, mesh: DeviceMesh, *, device: torch.device | str | None = None
) -> TensorParallelTransformer:
    """This rank's share of a model, on `device` or where the model is. What is not split stays the model's own tensor.

    A checkpoint is memory-mapped: load it on the CPU, and of what is split only this rank's pieces are read.

    Example:
        >>> mesh = init_device_mesh("cuda", (torch.distributed.get_world_size(),))
        >>> model = parallelise(UniversalTransformer.from_pretrained(path), mesh, device="cuda")

    Raises:
        InputError: the mesh has more than one dimension, or the model was optimised.
    """
    if mesh.ndim != 1:
        raise InputError(f"tensor parallelism goes over one dimension of a mesh: this has {mesh.ndim}; give mesh[name]")
    if model.optimised is not None:
        raise InputError("this model was optimised: parallelise before optimize()")
    plan, rank = tensor_parallel_plan(model.n, mesh.size()), mesh.get_local_rank()
    with torch.device("meta"):
        share = TensorParallelTransformer(plan.share)
    share.parallel, share.mesh = plan, mesh
    for name, slot in slots(model).items():
        put(share, name, share.piece(name, slot.detach()).to(device or slot.device))
    for path, entry in plan.entries.items():
        if isinstance(entry, Split):
            _work_together(share, path, entry)
    share.n, share.settings = model.n, model.settings
    share.carried, share.passed_over = model.carried, model.passed_over
    if isinstance(table := share.embedding.tokens, SplitTable):
        table.vocab, table.first = model.n.d_vocab, rank * table.weight.shape[0]
        pad = model.n.embedding.padding_row
        if pad is not None and table.first <= pad < table.first + table.weight.shape[0]:
            table.padding_row = pad - table.first
    return share.train(model.training)


def _work_together(model: TensorParallelTransformer, path: str, entry: Split) -> None:
    """Make one split module sum, or join, what its ranks give, and its gradients what all ranks' shares make of it."""
    module = model.get_submodule(path)
    meeting = module.get_submodule(entry.summed)
    meeting.__class__ = SHARED_WORK[type(meeting)]
    meeting.mesh = model.mesh  # type: ignore[assignment]
    if meeting is not module:
        module.register_forward_pre_hook(lambda _, given: (entering(given[0], model.mesh), *given[1:]))
    for name, parameter in module.named_parameters():
        cut = entry.cuts.get(name)
        repeated = cut is None or any(pieces < model.parallel.ways for _, pieces in cut.blocks)
        if repeated and name not in entry.behind:
            parameter.register_hook(_summing(cut or _one_piece(parameter), model))


def _summing(cut: Cut, model: TensorParallelTransformer) -> Any:
    """The gradient of pieces that several ranks hold: the sum over these."""
    spans = list(cut.spans(model.mesh.get_local_rank(), model.parallel.ways))

    def add(gradient: Tensor) -> Tensor:
        shape = list(gradient.shape)
        shape[cut.axis] = sum(length for length, _ in cut.blocks)
        whole, start = gradient.new_zeros(shape), 0
        for at, length in spans:
            whole.narrow(cut.axis, at, length).copy_(gradient.narrow(cut.axis, start, length))
            start += length
        dist.all_reduce(whole, group=model.mesh.get_group())
        return torch.cat([whole.narrow(cut.axis, *span) for span in spans], dim=cut.axis)

    return add


def _one_piece(tensor: Tensor) -> Cut:
    """A tensor that is not split."""
    return Cut(0, ((tensor.shape[0], 1),))
