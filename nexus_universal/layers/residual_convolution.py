"""A causal convolution beside a residual path: what keys, values and branches pass where positions mix early."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.cache import RecurrentState, State
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, without_pads


class UniversalResidualConvolution(nn.Module):
    """x plus each channel's convolution, in float32. Within a mixer its inputs are kept in a `field` of the state."""

    def __init__(
        self, part: ResidualConvolution, *, d_model: int, plan: CallPlan | None = None, field: str = "convolution"
    ) -> None:
        super().__init__()
        self.part, self.field = part, field
        self.plan = plan or CallPlan()
        self.plan.recurrent = True
        self.convolution = CausalConvolution(d_model, part.kernel, wide=True)

    def new_state(self) -> State:
        """An empty state for this mixer."""
        return RecurrentState()

    def forward(
        self,
        x: Float[Tensor, "batch seq width"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq width"]:
        call, wide = call or self.plan.begin(x), x.float()
        inputs = without_pads(wide, call).transpose(1, 2)
        mixed = self.convolution(inputs, state, trailing=call.trailing, field=self.field)
        return (mixed.transpose(1, 2) + wide).to(x.dtype)
