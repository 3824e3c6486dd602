"""Where tokens enter and logits leave."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Beside, Embedding, Head, HeadTransform
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import SinusoidPositions
from nexus_universal.cache import Cache
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.adaptive import AdaptiveSoftmax, BandedTable
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.gain import Gain
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.per_layer import UniversalPerLayerEmbedding, find_tokens
from nexus_universal.layers.support import refuse_unless, rounded
from nexus_universal.layers.tables import SinusoidTable, Table


class TokenTable(Table):
    """Token rows, times the embedding's scale unless it scales given embeddings, too."""

    def __init__(self, part: Embedding) -> None:
        super().__init__(part.rows, part.table_width, padding_row=part.padding_row)
        self.part = part

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        x = super().forward(index)
        return x if self.part.scale_inputs else scaled(self.part, x)


def scaled(part: Embedding, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
    """Times the embedding's scale, which Gemma rounds to the table's dtype first."""
    if part.scale is None:
        return x
    if part.scale_rounding == "model":
        return x * rounded(part.scale, x)
    return x * part.scale


class UniversalEmbedding(nn.Module):
    """Token rows, scaled, plus positions; and what each of the `layers` reads of a per-layer table, if there is one."""

    def __init__(self, part: Embedding, *, layers: int = 0) -> None:
        super().__init__()
        self.part = part
        self.tokens = TokenTable(part) if part.bands is None else BandedTable(part, part.bands)
        inner = part.table_width
        self.beside = nn.ModuleDict({each.name: self._table_beside(each) for each in part.beside})
        joined = inner + sum(each.width for each in part.beside)
        self.joint = Linear(joined, inner) if part.beside else None
        self.types = Table(part.types, inner) if part.types else None
        self.tasks = Table(part.tasks, inner) if part.tasks else None
        self.looks_at_first = bool(part.types or part.tasks or part.beside)
        if isinstance(part.positions, SinusoidPositions):
            self.positions = SinusoidTable(part.positions, inner)
        elif part.positions:
            row = None if part.positions.uncounted is None else part.positions.offset - 1
            self.positions = Table(part.positions.count, inner, padding_row=row)
        self.norm = UniversalNorm.of(part.norm, inner) if part.norm else None
        self.projection = Linear(inner, part.width, bias=part.narrow.bias) if part.narrow else None
        self.gain = Gain(part.width, shifted=True) if part.gain else None
        self.per_layer = None
        if part.per_layer:
            if part.per_layer.finds_tokens:
                refuse_unless(part, bands=None, scale_inputs=False)
            self.per_layer = UniversalPerLayerEmbedding(
                part.per_layer, d_model=part.width, layers=layers, padding_row=part.padding_row
            )

    def _table_beside(self, part: Beside) -> Table:
        row = self.part.padding_row
        return Table(part.count, part.width, padding_row=row if row is not None and row < part.count else None)

    @property
    def table(self) -> Float[Tensor, "d_vocab d_hidden"] | None:
        """The one token table that a tied head shares; None where tokens lie in bands."""
        return self.tokens.weight if isinstance(self.tokens, TokenTable) else None

    def begin(
        self,
        plan: CallPlan,
        input_ids: Int[Tensor, "batch seq"] | None,
        inputs_embeds: Float[Tensor, "batch seq d_embedding"] | None = None,
        *,
        mask: Tensor | None,
        positions: Int[Tensor, "rows seq"] | None,
        cache: Cache | None = None,
    ) -> tuple[Float[Tensor, "batch seq d_hidden"], Call]:
        """The residual before the first layer, and what all layers of the call look up.

        Raises:
            IndexError: a table has no row for an id or a position.
        """
        x = self.look_up(input_ids) if input_ids is not None else inputs_embeds
        assert x is not None
        call = plan.begin(x, mask=mask, positions=positions, cache=cache)
        if positions is None:
            call.positions = self.counted(call.positions, input_ids, mask)
        x = self(x, call.positions)
        call.tokens, call.per_layer = input_ids, self.by_layer(x, input_ids, inputs_embeds)
        if inputs_embeds is not None and plan.reads_tokens:
            call.tokens = self.found(inputs_embeds)
        return x, call

    def out_of_range(self, input_ids: Tensor | None, n: ArchitectureParameter) -> InputError:
        """What is wrong with ids or positions that a table has no row for; this may be a share of n."""
        vocab, table = n.d_vocab, n.embedding.positions
        if input_ids is not None and input_ids.numel():
            low, high = int(input_ids.min()), int(input_ids.max())
            if low < 0 or high >= vocab:
                return InputError(f"input_ids hold {low} … {high}: must lie in [0, {vocab})")
        kind = n.pos_embedding_type
        return InputError(f"positions beyond the {kind} table: at most {table.reach if table else 0} are known")

    def look_up(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_hidden"]:
        """Token rows; `inputs_embeds` stand in for these."""
        rows = self.tokens(input_ids)
        return rows if self.norm is None or not self.part.norm_rows else self.norm(rows)

    def by_layer(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        input_ids: Int[Tensor, "batch seq"] | None,
        given: Float[Tensor, "batch seq inner"] | None,
    ) -> Float[Tensor, "batch seq layers width"] | None:
        """What the layers read of the per-layer table; `x` is the embedding's output, `given` stands in for ids.

        Raises:
            InputError: embeddings are given whose ids must be found, but cannot be.
        """
        if self.per_layer is None:
            return None
        if given is not None and self.per_layer.part.finds_tokens:
            input_ids = self.found(given)
        return self.per_layer(x, input_ids)

    def found(self, given: Float[Tensor, "batch seq d_hidden"]) -> Int[Tensor, "batch seq"]:
        """The ids whose rows are given.

        Raises:
            InputError: they cannot be found.
        """
        if self.table is None:
            raise InputError("inputs_embeds say no ids where tokens lie in bands: give input_ids")
        return find_tokens(given, scaled(self.part, self.table))

    def counted(
        self,
        positions: Int[Tensor, "rows seq"],
        input_ids: Int[Tensor, "batch seq"] | None,
        mask: Tensor | None,
    ) -> Int[Tensor, "_ seq"]:
        """Positions that go on from the first of `positions`, but over counted tokens only."""
        if getattr(self.part.positions, "masked", False) and mask is not None and mask.dim() == 2:
            real = mask.long()
            return (real.cumsum(-1) * real - 1)[:, positions[0]]
        uncounted = getattr(self.part.positions, "uncounted", None)
        if uncounted is None or input_ids is None:
            return positions
        real = input_ids != uncounted
        return (real.cumsum(-1) + positions[:, :1]) * real - 1

    def forward(
        self, x: Float[Tensor, "batch seq inner"], positions: Int[Tensor, "rows seq"]
    ) -> Float[Tensor, "batch seq d_hidden"]:
        """What the first layer reads, from looked-up rows."""
        if self.part.scale_inputs:
            x = scaled(self.part, x)
        if self.norm is not None and self.part.norm_first:
            x = self.norm(x)
        first = x.new_zeros(x.shape[:-1], dtype=torch.long) if self.looks_at_first else None
        if self.joint is not None:
            x = self.joint(torch.cat([x, *(table(first) for table in self.beside.values())], dim=-1))
        if self.types is not None:
            x = x + self.types(first)
        if self.part.positions:
            index = positions + self.part.positions.offset if self.part.positions.offset else positions
            rows = self.positions(index)
            x = x + (rows.to(x.dtype) if isinstance(self.positions, SinusoidTable) else rows)
        if self.tasks is not None:
            x = x + self.tasks(first)
        x = x if self.norm is None or self.part.norm_first or self.part.norm_rows else self.norm(x)
        x = x if self.projection is None else self.projection(x)
        x = x if self.gain is None else self.gain(x)
        return x if self.part.dtype == "model" else x.float()


class UniversalHeadTransform(nn.Module):
    """norm(act(A h + a)) before the logits."""

    def __init__(self, part: HeadTransform, *, d_model: int) -> None:
        super().__init__()
        self.dense = Linear(d_model, part.width, bias=part.bias)
        self.activation = ACTIVATIONS[part.activation]
        self.norm = UniversalNorm.of(part.norm, part.width)

    def forward(self, x: Float[Tensor, "batch seq d_hidden"]) -> Float[Tensor, "batch seq width"]:
        return self.norm(self.activation(self.dense(x)))


class UniversalHead(nn.Module):
    """logits = softcap(scale · W (h / input_divisor) / divisor).

    A tied head has no weight of its own and is given the token table.
    """

    def __init__(self, part: Head, *, d_model: int, vocab: int, spare: int = 0) -> None:
        super().__init__()
        self.part, self.vocab = part, vocab
        self.transform = UniversalHeadTransform(part.transform, d_model=d_model) if part.transform else None
        width = part.transform.width if part.transform else d_model
        self.weight = None if part.tied else nn.Parameter(torch.empty(vocab + spare, width))
        self.bias = nn.Parameter(torch.empty(vocab + spare)) if part.bias else None

    @staticmethod
    def of(part: Head, *, d_model: int, vocab: int, spare: int = 0) -> UniversalHead | AdaptiveSoftmax:
        """The module that computes `part`; the token table has so many `spare` rows."""
        if part.bands:
            return AdaptiveSoftmax(part.bands, d_model=d_model, vocab=vocab)
        return UniversalHead(part, d_model=d_model, vocab=vocab, spare=spare if part.spare else 0)

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], table: Float[Tensor, "rows d_table"] | None
    ) -> Float[Tensor, "batch seq logits"]:
        weight = table if self.weight is None else self.weight
        assert weight is not None
        if self.transform is not None:
            x = self.transform(x)
        if self.part.input_divisor is not None:
            x = x / self.part.input_divisor
        logits = F.linear(x.to(weight.dtype), weight, self.bias)  # which some models keep in float32
        if self.part.scale is not None:
            logits = logits * self.part.scale
        if self.part.divisor is not None:
            logits = logits / self.part.divisor
        if self.part.dtype == "float32_capped":
            logits = logits.float()
        if self.part.softcap is not None:
            logits = torch.tanh(logits / self.part.softcap) * self.part.softcap
        logits = logits[..., : self.vocab] if self.part.spare else logits
        return logits.float() if self.part.dtype == "float32" else logits
