"""Short convolutions beside a residual path, as one part of n."""

from __future__ import annotations

from typing import ClassVar

from nexus_universal.architecture.part import Part, part


@part
class ResidualConvolution(Part):
    """x_t + Σ_j w_j ⊙ x_{t-j} over j < `kernel`: a causal convolution per channel beside what it reads.

    Both are float32, and so are the weights in any model. What a pad holds does not reach the tokens after it.
    """

    role: ClassVar[str] = "mixer"

    kernel: int
