"""Where tokens enter and logits leave: embedding, streams, head, and what a checkpoint says about its text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

from nexus_universal.architecture.mixers import Activation
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import LearnedPositions, Norm, SinusoidPositions
from nexus_universal.architecture.stream_gate import StreamGate


@part
class Bands(Part):
    """The vocabulary cut at `cutoffs` into bands of falling frequency: the rarer a token, the narrower its vector.

    A vector of band i holds ⌊width / divisor^i⌋ numbers; `width` None is the model's.
    """

    cutoffs: tuple[int, ...]
    divisor: float = 4.0
    width: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.cutoffs or self.cutoffs[0] < 1 or any(a >= b for a, b in pairwise(self.cutoffs)):
            yield "cutoffs", "must name tokens in rising order, the first at least 1"
        if self.divisor < 1:
            yield "divisor", "must be at least 1"

    def spans(self, *, vocab: int, width: int) -> tuple[tuple[int, int, int], ...]:
        """(first token, token behind the last, width of a vector) of each band, in a model of this width."""
        first, edges = self.width or width, pairwise((0, *self.cutoffs, vocab))
        return tuple((start, end, int(first // self.divisor**i)) for i, (start, end) in enumerate(edges))

    def problems_in(self, *, vocab: int, width: int) -> Iterator[tuple[str, str]]:
        """What contradicts a model of this vocabulary and width."""
        if max(self.cutoffs, default=0) >= vocab:
            yield "bands.cutoffs", f"must lie below vocab = {vocab}"
        elif self.divisor >= 1 and self.spans(vocab=vocab, width=width)[-1][2] < 1:
            yield "bands.divisor", f"leaves the last of {len(self.cutoffs) + 1} bands no width"


@part
class PerLayerEmbedding(Part):
    """A second token table, one `width`-vector per layer, mixed with a projection of the embedding (Gemma 3n).

    p = (norm(W e · d^-0.5) + √width · table[token]) · 2^-0.5, for all layers at once; tokens beyond `vocab` use row 0.
    `scale_rounding` "model" rounds d^-0.5 and 2^-0.5 to the model's dtype first; √width always is. Embeddings given
    instead of ids have p = norm(W e · d^-0.5), but where `finds_tokens` their ids are found in the token table.
    """

    vocab: int
    width: int
    norm: Norm
    scale_rounding: Literal["model", "none"] = "model"
    finds_tokens: bool = False


@part
class Narrow(Part):
    """Tables of a smaller `width`, and a projection to the model's behind the norm (ALBERT, arXiv 1909.11942)."""

    width: int
    bias: bool = True


@part
class Beside(Part):
    """A table of a further feature of `count` kinds, whose first row stands for one that is not said (RoCBert)."""

    name: str
    count: int
    width: int

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.name.isidentifier():
            yield "name", "must be an identifier"


@part
class Embedding(Part):
    """Token table [vocab, width], times `scale`, plus positions.

    `types` are the rows of a table of which every token gets the first, added before the positions; of a table of
    `tasks` it is added after them (BERT, ERNIE). `narrow` tables are not as wide as the model. Rows `beside` a token's
    are joined to it and projected with it to the model's width, before anything is added. The norm stands behind all
    that, or right behind the scale where it is `norm_first` (BlenderbotSmall), of looked-up rows only where
    `norm_rows`: embeddings that are given have been normed (Inkling). `spare` rows stand behind those of the
    vocabulary, for ids that no head scores: where an image or a sound goes.

    `scale_rounding` "model" rounds the scale to the table's dtype first (Gemma). `scale_inputs` scales embeddings that
    a caller gives instead of ids, too. `padding_row` never receives a gradient. `bands` make it the adaptive input of
    arXiv 1809.10853: every band, the first too, has a table and a projection to `width` of its own.

    `dtype` "float32" keeps the residual in float32, whatever the model's dtype: sums are widened by it, and every step
    but the final norm rounds what it reads to the model's dtype (Mamba); with "float32_layers" the final norm does,
    too. `gain` adds a learned vector and multiplies by another one at the end (ZAYA).
    """

    vocab: int
    width: int
    scale: float | None = None
    scale_rounding: Literal["model", "none"] = "none"
    scale_inputs: bool = False
    positions: LearnedPositions | SinusoidPositions | None = None
    norm: Norm | None = None
    padding_row: int | None = None
    per_layer: PerLayerEmbedding | None = None
    bands: Bands | None = None
    dtype: Literal["model", "float32", "float32_layers"] = "model"
    gain: bool = False
    types: int | None = None
    tasks: int | None = None
    narrow: Narrow | None = None
    norm_first: bool = False
    norm_rows: bool = False
    spare: int | None = None
    beside: tuple[Beside, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the token table has."""
        return self.vocab + (self.spare or 0)

    @property
    def table_width(self) -> int:
        """Width of a token vector in the table."""
        return self.narrow.width if self.narrow else self.width

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.narrow and (self.bands or self.per_layer or self.beside):
            yield "narrow", "must be None where bands, per_layer or beside are set"
        if self.per_layer and self.dtype != "model":
            yield "dtype", "must be 'model' beside per_layer, whose rows are in the model's"
        if self.padding_row is not None and not 0 <= self.padding_row < self.rows:
            yield "padding_row", f"must lie in [0, {self.rows})"
        if self.spare and self.bands:
            yield "spare", "must be None where bands are set"
        if (self.norm_first or self.norm_rows) and self.norm is None:
            yield "norm_first" if self.norm_first else "norm_rows", "needs a norm"
        if self.norm_first and not (self.positions or self.types or self.tasks or self.beside):
            yield "norm_first", "must be False where nothing is added to a row: the norm is first and last"
        if self.norm_rows and (self.norm_first or self.scale_inputs or self.bands):
            yield "norm_rows", "must be False where norm_first, scale_inputs or bands are set"
        if self.scale is None and (self.scale_inputs or self.scale_rounding != "none"):
            yield "scale", "is None, but scale_inputs or scale_rounding is set"
        if self.bands:
            yield from self.bands.problems_in(vocab=self.vocab, width=self.width)
            if self.padding_row is not None and self.padding_row >= min(self.bands.cutoffs, default=self.vocab):
                yield "padding_row", f"must lie in the first band, [0, {self.bands.cutoffs[0]})"


@part
class Streams(Part):
    """Several residual streams: how the embedding fills them and how they become one again before the head.

    "copy" repeats it, "project" gives each further stream its own projection, scaled to the embedding's RMS (no
    smaller than √eps). "weigh" takes Σ_j (σ(s f_j + b_j) + eps) x_j, f = F · rms(all streams, concatenated) without
    weight and with `norm_eps`; "mean" the mean after a projection of each further stream, scaled to the first one's
    RMS; "gate" what a `gate` makes of them. `late_norm` divides F x by the RMS instead of x (other bits).
    """

    count: int
    fill: Literal["copy", "project"]
    merge: Literal["weigh", "mean", "gate"]
    eps: float = 0.0
    norm_eps: float | None = None
    late_norm: bool = False
    gate: StreamGate | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.late_norm and self.merge != "weigh":
            yield "late_norm", "needs merge = 'weigh'"
        if self.count < 2:
            yield "count", "must be at least 2"
        if (self.norm_eps is not None) != (self.merge == "weigh"):
            yield "norm_eps", "must be given for merge = 'weigh' and None otherwise"
        if (self.gate is not None) != (self.merge == "gate"):
            yield "gate", "must be given for merge = 'gate' and None otherwise"
        if self.eps and self.fill == "copy" and self.merge == "gate":
            yield "eps", "must be 0 where nothing is rescaled or weighed"


@part
class Register(Part):
    """A register that exists before the first layer: a vector, the same at every position, never trained."""

    name: str

    def problems(self) -> Iterator[tuple[str, str]]:
        if not self.name.isidentifier() or self.name in ("x", "e", "u", "v"):
            yield "name", "must be an identifier other than 'x', 'e', 'u' and 'v'"


@part
class HeadTransform(Part):
    """norm(act(A h + a)) of `width`: what a head multiplies instead of h (BERT, arXiv 1810.04805)."""

    width: int
    activation: Activation
    norm: Norm
    bias: bool = True


@part
class Head(Part):
    """logits = softcap(scale · W (h / input_divisor) / divisor): `tied` shares W with the token table.

    A `transform` stands before everything else. W may have `spare` rows, as the table has, whose logits are left out.

    `dtype` "float32" casts the logits, "float32_capped" before the softcap. A `divisor` is no scale: x / 3 and x ·
    (1/3) differ in bits. Positions whose logits are not asked for are left out of the head, or already (`skips`
    "reusing") of the last layers, where those only reuse keys and values of others: a product over fewer rows has other
    bits.

    `bands` make it the adaptive softmax of arXiv 1609.04309, and the "logits" log-probabilities of the whole
    vocabulary: one softmax over the tokens of band 0 and an entry for each further band, times another within the
    token's band, whose matrix goes through the band's width.
    """

    tied: bool
    bias: bool = False
    scale: float | None = None
    divisor: float | None = None
    softcap: float | None = None
    dtype: Literal["model", "float32", "float32_capped"] = "model"
    bands: Bands | None = None
    skips: Literal["head", "reusing"] = "head"
    input_divisor: float | None = None
    transform: HeadTransform | None = None
    spare: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("divisor", "input_divisor"):
            if getattr(self, name) == 0:
                yield name, "must not be zero"
        if self.dtype == "float32_capped" and self.softcap is None:
            yield "dtype", "must be 'model' or 'float32' where softcap = None"
        if self.bands:
            plain = Head(tied=False)
            for name in ("tied", "bias", "scale", "divisor", "input_divisor", "softcap", "dtype", "transform", "spare"):
                if getattr(self, name) != getattr(plain, name):
                    yield name, f"must be {getattr(plain, name)!r} where the head has bands"
            if self.bands.width is not None:
                yield "bands.width", "must be None: the first band of a head has no projection"


@part
class Text(Part):
    """What rides along with n and changes no bit of a forward pass: context, special tokens, dtype, initialisation.

    `scaled_residual`: projections back to the residual start smaller by √(2 · layers) (GPT-2). `step_range`: a state
    space's Δ starts log-uniform between the first two numbers, none below the third; None starts its bias at 1.
    `uniform_output`: its convolution and output start uniform in ±1/√fan-in; `shrunk_output`: its output in
    ±1/√(fan-in · layers). `embedding_range`: the std of token vectors, where they start otherwise than matrices.
    `reread_beyond`: a text that grows past so many tokens is read anew, for keys turned by LongRoPE's short factors do
    not fit its long ones (Phi-3). `decay_range`: what a delta rule's exp(A) starts uniform in. `zero_routers`: they
    start at 0 (AFMoE).
    """

    context: int | None = None
    bos: int | None = None
    eos: tuple[int, ...] = ()
    pad: int | None = None
    use_cache: bool = True
    dtype: str | None = None
    initializer_range: float = 0.02
    scaled_residual: bool = False
    step_range: tuple[float, float, float] | None = None
    uniform_output: bool = False
    shrunk_output: bool = False
    embedding_range: float | None = None
    reread_beyond: int | None = None
    decay_range: tuple[float, float] = (0.01, 16.0)
    zero_routers: bool = False


@part
class Origin(Part):
    """Where n came from: the family (its `model_type`), the config's own JSON, and the keys a user chose to ignore."""

    family: str | None = None
    config: str | None = None
    ignored_keys: tuple[str, ...] = ()
