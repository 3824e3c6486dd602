"""One matrix product per run of rows: torch's grouped kernel, and a form of it that torch.compile can look past."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

Form = Literal["kernel", "apart", "unseen"]
"""torch's kernel; every product by itself, whose gradients have other bits; or a form that asks for no run's end."""

FEW = 64
"""So many rows may have a copy of a matrix each."""


def sorted_pairs(
    chosen: Int[Tensor, "tokens k"], experts: int, *, stable: bool = False
) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Int[Tensor, " experts"]]:
    """The (token, expert) pairs sorted by expert: expert and number of each, and where each run ends.

    Which of an expert's pairs comes first shows in the bits of sums over them; `stable` is by number.
    """
    expert, order = torch.sort(chosen.reshape(-1), stable=stable)
    counted = expert.float() if chosen.device.type in ("cpu", "mps") else expert.int()
    per_expert = torch.histc(counted, bins=experts, min=0, max=experts - 1)
    return expert, order, torch.cumsum(per_expert, dim=0, dtype=torch.int32)


def grouped_linear(
    x: Float[Tensor, "pairs d_in"],
    weight: Float[Tensor, "experts d_out d_in"],
    ends: Int[Tensor, " experts"],
    bias: Float[Tensor, "pairs d_out"] | None = None,
    *,
    form: Form = "kernel",
) -> Float[Tensor, "pairs d_out"]:
    """x[start:end] @ weight[e]ᵀ for each expert's run of rows, `ends` being the runs' ends, plus each row's bias.

    There may be more runs than matrices: the product of a run that has none is 0.
    """
    x, matrices = x.to(weight.dtype), weight.transpose(-2, -1)
    known = weight.dtype == torch.bfloat16 and not _odd(matrices) and len(ends) == len(matrices)
    if form == "unseen" and not known and len(x) <= FEW:
        out = _gathered(x, matrices, ends)
    elif torch.compiler.is_compiling() and (form == "apart" or not known):
        out = torch.ops.nexus_universal.grouped_product(x, matrices, ends, form == "apart")
    else:
        out = _product(x, matrices, ends, apart=form == "apart")
    return out if bias is None else out + bias


def swift_form(device: torch.device) -> Form:
    """The form that is fastest for few rows: on a CPU only matrices that have any are read, elsewhere nothing waits."""
    return "apart" if device.type == "cpu" else "unseen"


def _odd(matrices: Tensor) -> bool:
    """Whether torch's kernel does not take them: it knows no float64, and only rows of whole 16 bytes."""
    return matrices.dtype == torch.float64 or any(size * matrices.element_size() % 16 for size in matrices.shape[1:])


def _gathered(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Every row by a copy of its own matrix: nothing depends on where the runs end, so it can be recorded."""
    run = torch.searchsorted(ends, torch.arange(len(x), device=x.device, dtype=ends.dtype), right=True)
    out = torch.bmm(x.unsqueeze(1), matrices[run.clamp(max=len(matrices) - 1)]).squeeze(1)
    return out if len(ends) == len(matrices) else out * (run < len(matrices)).unsqueeze(-1)


def _product(x: Tensor, matrices: Tensor, ends: Tensor, apart: bool = False) -> Tensor:
    """x [rows, in], matrices [runs, in, out]; torch's kernel is what the reference needs, the rest is a loop."""
    if apart or _odd(matrices) or len(ends) > len(matrices):
        *runs, behind = x.tensor_split(ends[: len(matrices)].tolist())
        products = [run @ matrix for run, matrix in zip(runs, matrices, strict=True) if len(run)]
        return torch.cat([*products, behind.new_zeros(behind.shape[0], matrices.shape[-1])])
    return F.grouped_mm(x, matrices, offs=ends)


def _backward(grad: Tensor, x: Tensor, matrices: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    runs = ends[: len(matrices)].tolist()
    rows, grads = (each.tensor_split(runs)[:-1] for each in (x, grad))
    of_matrices = torch.stack([row.T @ g for row, g in zip(rows, grads, strict=True)])
    return _product(grad.contiguous(), matrices.transpose(-2, -1), ends), of_matrices


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _register() -> None:
    """Both directions as opaque operators: what they do depends on the data, so nothing can be traced through them."""
    name = "nexus_universal::grouped_product"
    tensors = "Tensor x, Tensor matrices, Tensor ends"
    torch.library.custom_op(name, _product, mutates_args=(), schema=f"({tensors}, bool apart) -> Tensor")
    torch.library.register_fake(name, lambda x, matrices, ends, apart: x.new_empty(x.shape[0], matrices.shape[-1]))
    torch.library.custom_op(
        f"{name}_backward", _backward, mutates_args=(), schema=f"(Tensor grad, {tensors}) -> (Tensor, Tensor)"
    )
    torch.library.register_fake(
        f"{name}_backward",
        lambda grad, x, matrices, ends: (torch.empty_like(x), matrices.new_empty(matrices.shape)),
    )
    torch.library.register_autograd(
        name,
        lambda ctx, grad: (*torch.ops.nexus_universal.grouped_product_backward(grad, *ctx.saved_tensors), None, None),
        setup_context=_save,
    )


_register()
