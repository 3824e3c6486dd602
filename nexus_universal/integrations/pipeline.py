"""Pipelines on PyTorch's own schedules: a stage is a run of layers, with the embedding or the head at the ends."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.stages import Stage, pipeline_stages
from nexus_universal.transformer import UniversalTransformer


class UniversalStage(nn.Module):
    """One stage of a model: ids or the residual in, the residual or logits out; modules and names are the model's.

    A stage has no cache: it is for training, and for reading whole texts.
    """

    def __init__(self, model: UniversalTransformer, stage: Stage) -> None:
        super().__init__()
        self.n, self.plan, self.stage = model.n, model.plan, stage
        first, last = stage.layers.start == 0, stage.layers.stop == len(model.layers)
        self.embedding = model.embedding if first else None
        if first and last and hasattr(model, "shared"):
            self.shared = model.shared
        self.layers = nn.ModuleDict({str(index): model.layers[index] for index in stage.layers})
        self.final_norm = model.final_norm if last else None
        self.head = model.head if last else None
        self.table = None
        if last and model.n.head.tied:
            self.table = model.embedding.table if first else nn.Parameter(model.embedding.table.detach().clone())  # type: ignore[union-attr]
        self.wide = model.n.embedding.dtype
        self.model_dtype = model.dtype

    def forward(
        self,
        x: Int[Tensor, "batch seq"] | Float[Tensor, "batch seq d_hidden"],
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows seq"] | None = None,
    ) -> Float[Tensor, "batch seq out"]:
        if self.embedding is not None:
            x, call = self.embedding.begin(self.plan, x, mask=attention_mask, positions=position_ids)
        else:
            call = self.plan.begin(x.to(self.model_dtype), mask=attention_mask, positions=position_ids)
        registers = {"x": x, "e": x.view_as(x)}
        for layer in self.layers.values():
            registers = layer(registers, call)
        x = registers["x"]
        if self.head is None:
            return x
        if self.final_norm is not None:
            x = self.final_norm(x.to(call.dtype) if self.wide == "float32_layers" else x)
        return self.head(x.to(call.dtype), self.table)


class TiedTables:
    """The token table of the first stage and the copy of it that a tied head in the last one multiplies by."""

    def __init__(self, stage: UniversalStage, mesh: DeviceMesh) -> None:
        ranks = dist.get_process_group_ranks(mesh.get_group())
        ends = (ranks[0], ranks[-1])
        self.group = dist.new_group(ends) if len(ranks) > 1 and stage.n.head.tied else None
        at_end = dist.get_rank() in ends
        self.table = (stage.table if stage.embedding is None else stage.embedding.table) if at_end else None

    def sum_gradients(self) -> None:
        """Give both the gradient of the one table that they are: behind `schedule.step`, before the optimiser's."""
        if self.group is None or self.table is None:
            return
        if self.table.grad is None:
            self.table.grad = torch.zeros_like(self.table)
        dist.all_reduce(self.table.grad, group=self.group)


def pipeline_stage(
    model: UniversalTransformer, mesh: DeviceMesh, *, rows: int, length: int, context: int | None = None
) -> tuple[PipelineStage, TiedTables]:
    """This rank's stage for a schedule of `torch.distributed.pipelining`, whose micro-batches are [rows, length].

    `model` may lie on the meta device but for the layers of this rank, and should be dropped afterwards.

    Example:
        >>> stage, tied = pipeline_stage(model, mesh, rows=1, length=512)
        >>> schedule = ScheduleGPipe(stage, n_microbatches=4, loss_fn=loss)
        >>> schedule.step(ids) if first else schedule.step(target=labels, losses=losses)
        >>> tied.sum_gradients()

    Raises:
        InputError: n cannot be cut into as many stages as there are ranks: why is said.
    """
    if mesh.ndim != 1:
        raise InputError(f"a pipeline goes over one dimension of a mesh: this has {mesh.ndim}; give mesh[name]")
    if model.optimised is not None:
        raise InputError("this model was optimised: cut it before optimize()")
    stages, rank = pipeline_stages(model.n, mesh.size(), context=context), mesh.get_local_rank()
    stage = UniversalStage(model, stages[rank])
    residual = torch.float32 if model.n.embedding.dtype != "model" else model.dtype
    between = torch.empty(rows, length, model.n.d_hidden, dtype=residual, device="meta", requires_grad=True)
    ids = torch.empty(rows, length, dtype=torch.long, device="meta")
    out = between
    if stage.head is not None:
        wide = torch.float32 if model.n.head.dtype != "model" else model.dtype
        out = torch.empty(rows, length, model.n.d_vocab, dtype=wide, device="meta", requires_grad=True)
    built = PipelineStage(
        stage,
        rank,
        len(stages),
        model.device,
        input_args=(ids if rank == 0 else between,),
        output_args=(out,),
        group=mesh.get_group(),
    )
    return built, TiedTables(stage, mesh)
