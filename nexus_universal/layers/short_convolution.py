"""A short convolution between two products, as a mixer."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from nexus_universal.architecture.recurrences import ShortConvolution
from nexus_universal.cache import RecurrentState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.convolution import CausalConvolution, without_pads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.recurrent import RecurrentMixer


class UniversalShortConvolution(RecurrentMixer[RecurrentState]):
    """C ⊙ conv(B ⊙ x) (LFM2, arXiv 2511.23404). The rows of `input` are [B | C | x]."""

    def __init__(self, part: ShortConvolution, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        self.part = part
        self.input = Linear(d_model, 3 * d_model, bias=part.bias)
        self.convolution = CausalConvolution(d_model, part.kernel, bias=part.bias)
        self.output = Linear(d_model, d_model, bias=part.bias)

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: RecurrentState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        mixed = self.input(without_pads(x, call))
        if self.part.bias:
            # The reference lets a pad's bias into the convolution of the tokens after it; ragged batches must not.
            mixed = without_pads(mixed, call)
        before, behind, inner = mixed.transpose(1, 2).chunk(3, dim=1)
        out = behind * self.convolution(before * inner, state, trailing=call.trailing)
        return self.output(out.transpose(1, 2).contiguous())
