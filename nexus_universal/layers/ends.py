"""Where tokens enter and logits leave."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Embedding, Head
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.support import refuse_unless


class Table(nn.Module):
    """Rows looked up by index; `padding_row` never receives a gradient."""

    def __init__(self, rows: int, width: int, *, padding_row: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.padding_row = padding_row

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        return F.embedding(index, self.weight, self.padding_row)


class TokenTable(Table):
    """Token rows times the embedding's scale, which Gemma rounds to the table's dtype first."""

    def __init__(self, part: Embedding) -> None:
        super().__init__(part.vocab, part.width, padding_row=part.padding_row)
        self.part = part

    def forward(self, index: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        x = super().forward(index)
        if self.part.scale is None:
            return x
        if self.part.scale_rounding == "model":
            return x * torch.tensor(self.part.scale, device=x.device).to(x.dtype)
        return x * self.part.scale


class UniversalEmbedding(nn.Module):
    """Token rows, scaled, plus positions."""

    def __init__(self, part: Embedding) -> None:
        super().__init__()
        refuse_unless(part, scale_inputs=False, per_layer=None)
        self.part = part
        self.tokens = TokenTable(part)
        if part.positions:
            self.positions = Table(part.positions.count, part.width)
        self.norm = UniversalNorm.of(part.norm, part.width) if part.norm else None

    def look_up(self, input_ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_hidden"]:
        """Scaled token rows; `inputs_embeds` stand in for these."""
        return self.tokens(input_ids)

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], positions: Int[Tensor, "rows seq"]
    ) -> Float[Tensor, "batch seq d_hidden"]:
        """What the first layer reads, from looked-up rows."""
        if self.part.positions:
            x = x + self.positions(positions + self.part.positions.offset if self.part.positions.offset else positions)
        return x if self.norm is None else self.norm(x)


class UniversalHead(nn.Module):
    """logits = softcap(scale · W h); a tied head has no weight of its own and is given the token table."""

    def __init__(self, part: Head, *, d_model: int, vocab: int) -> None:
        super().__init__()
        self.part = part
        self.weight = None if part.tied else nn.Parameter(torch.empty(vocab, d_model))
        self.bias = nn.Parameter(torch.empty(vocab)) if part.bias else None

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], table: Float[Tensor, "d_vocab d_hidden"]
    ) -> Float[Tensor, "batch seq d_vocab"]:
        logits = F.linear(x, table if self.weight is None else self.weight, self.bias)
        if self.part.scale is not None:
            logits = logits * self.part.scale
        if self.part.softcap is not None:
            logits = torch.tanh(logits / self.part.softcap) * self.part.softcap
        return logits.float() if self.part.dtype == "float32" else logits
