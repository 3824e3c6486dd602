"""Bridges: what a model reads of another one's residual, as a part of its program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class CrossAttention(Part):
    """W_o softmax(q kᵀ | 0) v, with q of the host's vector and k, v of the donor's states (arXiv 1706.03762).

    The softmax is the bridge's own, over the states that a position may see and over nothing: a score of 0 with no
    value, so that a query can look away, and has something to look at before the donor has read anything. `gated`
    multiplies what is read by silu(W_g z), a gate of the host's.
    """

    heads: int
    head_dim: int
    gated: bool = False


@part
class Similarity(Part):
    """relu(cos(h, P s) - τ) (P s - h): towards what the donor says where it is like what the host has, else nothing.

    τ is the `threshold`. P is found without training, by ridge regression or by contrast (arXiv 2103.00020).
    """

    threshold: float = 0.0

    def problems(self) -> Iterator[tuple[str, str]]:
        if not -1 <= self.threshold < 1:
            yield "threshold", "must lie in [-1, 1): a cosine is compared with it"


@part
class Bridge(Part):
    """What a host adds to its residual: g · form(z, s), s being that of its `donor` after so many layers (`layer`).

    `donor` is a member of the same fused model. A position sees what the donor has made of no later ones: of "position"
    those up to its own, both reading the same ids; of "byte" those tokens that are read whole where its own token ends.
    A form that reads one state takes the last of these.

    g = tanh(α) with α = 0 in the beginning where `zero` is "gate", and 1 where it is "out": the last matrix is zero
    then. Both at once, for which no gradient would ever move, cannot be said. A `gate` "token" also multiplies by
    σ(w z + b), and "request" by σ of the same of the mean of z so far: of what has been asked as a whole.
    """

    donor: str
    layer: int
    donor_width: int
    form: CrossAttention | FeedForward | Similarity
    donor_norm: Norm | None = None
    align: Literal["position", "byte"] = "position"
    gate: Literal["request", "token", "scalar"] = "request"
    zero: Literal["gate", "out"] = "gate"

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.layer < 0:
            yield "layer", "must not be negative: it is how many of the donor's layers have run"
        if self.zero == "out" and isinstance(self.form, Similarity):
            yield "zero", "must be 'gate' where form is a Similarity: nothing is like a P of zeros"
