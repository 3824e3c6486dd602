"""Both ends of a model whose vocabulary lies in bands of falling frequency: the rarer a token, the narrower its vector.

Every band is computed for every position. The bands' widths fall geometrically, so that this costs little more than
the first of them, and no shape depends on which tokens a call holds.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Bands, Embedding, Text
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.support import refuse_unless
from nexus_universal.layers.tables import Table


class Band(nn.Module):
    """The narrow rows of one band, and their projection to the model's width."""

    def __init__(self, rows: int, inner: int, width: int, *, padding_row: int | None) -> None:
        super().__init__()
        self.rows = Table(rows, inner, padding_row=padding_row)
        self.projection = Linear(inner, width, bias=False)

    def start(self, text: Text, *, depth: int) -> None:
        """Each band's output alike, however narrow (fairseq's adaptive_input.py)."""
        nn.init.normal_(self.rows.weight, std=self.rows.weight.shape[1] ** -0.5)
        nn.init.xavier_uniform_(self.projection.weight)

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        return self.projection(self.rows(index))


class BandedTable(nn.Module):
    """Adaptive input (arXiv 1809.10853): each token's row from its own band."""

    def __init__(self, part: Embedding, bands: Bands) -> None:
        super().__init__()
        refuse_unless(part, scale=None)
        spans = bands.spans(vocab=part.vocab, width=part.width)
        self.starts = [start for start, _, _ in spans]
        self.bands = nn.ModuleList(
            Band(end - start, inner, part.width, padding_row=None if start else part.padding_row)
            for start, end, inner in spans
        )

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        """Rows of the model's width.

        Raises:
            IndexError: an index below 0 or beyond the last band.
        """
        x = self.bands[0](index.clamp(max=self.starts[1] - 1))
        for number, start in enumerate(self.starts[1:], start=1):
            inside = (index - start).clamp(min=0)
            if number + 1 < len(self.starts):
                inside = inside.clamp(max=self.starts[number + 1] - start - 1)
            x = torch.where((index >= start)[..., None], self.bands[number](inside), x)
        return x


class Tail(nn.Module):
    """Scores within one band, through the band's width."""

    def __init__(self, d_model: int, rank: int, tokens: int) -> None:
        super().__init__()
        self.down = Linear(d_model, rank, bias=False)
        self.up = Linear(rank, tokens, bias=False)

    def forward(self, x: Float[Tensor, "*lead d_hidden"]) -> Float[Tensor, "*lead tokens"]:
        return self.up(self.down(x))


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of the whole vocabulary (arXiv 1609.04309): log p(band) + log p(token | band)."""

    def __init__(self, bands: Bands, *, d_model: int, vocab: int) -> None:
        super().__init__()
        (_, self.shortlist, _), *further = bands.spans(vocab=vocab, width=d_model)
        self.first = Linear(d_model, self.shortlist + len(further), bias=False)
        self.tails = nn.ModuleList(Tail(d_model, rank, end - start) for start, end, rank in further)

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], table: Float[Tensor, "d_vocab d_hidden"] | None = None
    ) -> Float[Tensor, "batch seq d_vocab"]:
        """`table` is never needed: such a head shares no weights."""
        first = F.log_softmax(self.first(x), dim=-1)
        pieces = [first[..., : self.shortlist]]
        for number, tail in enumerate(self.tails, start=self.shortlist):
            pieces.append(F.log_softmax(tail(x), dim=-1) + first[..., number, None])
        return torch.cat(pieces, dim=-1)
