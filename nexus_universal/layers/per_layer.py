"""The per-layer token embedding (Gemma 3n): a second table, one narrow vector per token and layer, and its use."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import PerLayerEmbedding
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import PerLayerInput
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.call import Call
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.support import rounded
from nexus_universal.layers.tables import Table


class UniversalPerLayerEmbedding(nn.Module):
    """p = (norm(W e · d^-0.5) + √width · table[token]) · 2^-0.5, for all layers at once."""

    def __init__(self, part: PerLayerEmbedding, *, d_model: int, layers: int, padding_row: int | None) -> None:
        super().__init__()
        self.part, self.layers, self.d_model = part, layers, d_model
        inside = padding_row is not None and padding_row < part.vocab
        self.tokens = Table(part.vocab, layers * part.width, padding_row=padding_row if inside else None)
        self.projection = Linear(d_model, layers * part.width, bias=False)
        self.norm = UniversalNorm.of(part.norm, part.width)

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], tokens: Int[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch seq layers width"]:
        """`x` is the embedding's output; without `tokens` the table has no part in it."""
        by_layer = (self.layers, self.part.width)
        rows = None
        if tokens is not None:
            rows = self.tokens(torch.where(tokens < self.part.vocab, tokens, 0))
            rows = (rows * rounded(self.part.width**0.5, rows)).unflatten(-1, by_layer)
        out = self._scaled(self.projection(x), self.d_model**-0.5)
        out = self.norm(out.unflatten(-1, by_layer))
        return out if rows is None else self._scaled(out + rows, 2.0**-0.5)

    def _scaled(self, x: Tensor, scale: float) -> Tensor:
        if self.part.scale_rounding == "model":
            return x * rounded(scale, x)
        return x * scale


def find_tokens(
    x: Float[Tensor, "batch seq d_hidden"], table: Float[Tensor, "d_vocab d_hidden"]
) -> Int[Tensor, "batch seq"]:
    """The ids whose rows of `table` are x, exactly.

    Raises:
        InputError: a vector of x is no row of the table, or several.
    """
    rows = x.reshape(-1, x.shape[-1])
    position, token = (rows[:, :1] == table[:, 0]).nonzero(as_tuple=True)
    alike = (rows[position] == table[token]).all(-1)
    position, token = position[alike], token[alike]
    if not torch.equal(position, torch.arange(rows.shape[0], device=x.device)):
        raise InputError("inputs_embeds must hold rows of the scaled token table: another table needs their ids")
    return token.view(x.shape[:2])


class UniversalPerLayerInput(nn.Module):
    """up(act(gate x) · p), p being this layer's slice of the call's per-layer embedding."""

    def __init__(self, part: PerLayerInput, *, d_model: int, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.gate = Linear(d_model, part.width, bias=False)
        self.up = Linear(part.width, d_model, bias=False)
        self.activation = ACTIVATIONS[part.activation]

    def forward(self, x: Float[Tensor, "batch seq d_hidden"], call: Call) -> Float[Tensor, "batch seq d_hidden"]:
        assert call.per_layer is not None
        return self.up(self.activation(self.gate(x)) * call.per_layer[:, :, self.layer_index])
