"""Where tokens enter and logits leave: embedding, streams, head, and what a checkpoint says about its text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import LearnedPositions, Norm


@part
class PerLayerEmbedding(Part):
    """A second token table, one `width`-vector per layer, mixed with a projection of the embedding (Gemma 3n).

    p = (norm(W e · d^-0.5) + √width · table[token]) · 2^-0.5, for all layers at once; tokens beyond `vocab` use row 0.
    `scale_rounding` "model" rounds d^-0.5 and 2^-0.5 to the model's dtype first; √width always is.
    """

    vocab: int
    width: int
    norm: Norm
    scale_rounding: Literal["model", "none"] = "model"


@part
class Embedding(Part):
    """Token table [vocab, width], times `scale`, plus positions.

    `scale_rounding` "model" rounds the scale to the table's dtype first (Gemma). `padding_row` never receives a
    gradient.
    """

    vocab: int
    width: int
    scale: float | None = None
    scale_rounding: Literal["model", "none"] = "none"
    scale_inputs: bool = False
    positions: LearnedPositions | None = None
    norm: Norm | None = None
    padding_row: int | None = None
    per_layer: PerLayerEmbedding | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.padding_row is not None and not 0 <= self.padding_row < self.vocab:
            yield "padding_row", f"must lie in [0, {self.vocab})"
        if self.scale is None and (self.scale_inputs or self.scale_rounding != "none"):
            yield "scale", "is None, but scale_inputs or scale_rounding is set"


@part
class Streams(Part):
    """Several residual streams: how the embedding fills them and how they become one again before the head.

    "copy" repeats it, "project" gives each further stream its own projection, scaled to the embedding's RMS (no
    smaller than √eps). "weigh" takes Σ_j (σ(s f_j + b_j) + eps) x_j, f = F · rms(all streams, concatenated) without
    weight and with `norm_eps`; "mean" the mean after a projection of each further stream, scaled to the first one's
    RMS.
    """

    count: int
    fill: Literal["copy", "project"]
    merge: Literal["weigh", "mean"]
    eps: float
    norm_eps: float | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.count < 2:
            yield "count", "must be at least 2"
        if (self.norm_eps is not None) != (self.merge == "weigh"):
            yield "norm_eps", "must be given for merge = 'weigh' and None for 'mean'"


@part
class Register(Part):
    """A register that exists before the first layer: a learned vector, the same at every position."""

    name: str

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.name.isidentifier() or self.name in ("x", "e", "u", "v"):
            yield "name", "must be an identifier other than 'x', 'e', 'u' and 'v'"


@part
class Head(Part):
    """logits = softcap(scale · W h): `tied` shares W with the token table. `dtype` "float32" casts the logits."""

    tied: bool
    bias: bool = False
    scale: float | None = None
    softcap: float | None = None
    dtype: Literal["model", "float32"] = "model"


@part
class Text(Part):
    """What rides along with n and changes no bit of a forward pass: context, special tokens, dtype, initialisation.

    `scaled_residual`: projections back to the residual start smaller by √(2 · layers) (GPT-2).
    """

    context: int | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    use_cache: bool = True
    dtype: str | None = None
    initializer_range: float = 0.02
    scaled_residual: bool = False


@part
class Origin(Part):
    """Where n came from: the family (its `model_type`), the config's own JSON, and the keys a user chose to ignore."""

    family: str | None = None
    config: str | None = None
    ignored_keys: tuple[str, ...] = ()
