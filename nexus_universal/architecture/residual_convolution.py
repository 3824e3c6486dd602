"""Short convolutions beside a residual path, as parts of n."""

from __future__ import annotations

from typing import ClassVar

from nexus_universal.architecture.part import Part, part


@part
class ResidualConvolution(Part):
    """x_t + Σ_j w_j ⊙ x_{t-j} over j < `kernel`: a causal convolution per channel beside what it reads.

    Both are float32, and so are the weights in any model. `divided` divides the sum by √(kernel + 1). What a pad holds
    does not reach the tokens after it.
    """

    role: ClassVar[str] = "mixer"

    kernel: int
    divided: bool = False


@part
class DynamicConvolution(Part):
    """(x_t + Σ_j (w_j + W z_t) ⊙ x_{t-j}) / √(2 kernel + 1): half of every tap comes from what x_t is projected of.

    W z_t is a number for each head and j < `kernel`; the rest is as in a residual convolution, but for its weights,
    which have the model's dtype (Inkling 2).
    """

    kernel: int
