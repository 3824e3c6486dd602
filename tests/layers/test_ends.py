"""Embedding and head: scales, positions, the pad row, tied and free heads, caps."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.ends import (
    Beside,
    Embedding,
    Head,
    HeadTransform,
    LearnedPositions,
    Narrow,
    PerLayerEmbedding,
)
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.position import Norm
from nexus_universal.layers.ends import UniversalEmbedding, UniversalHead
from tests.helpers import ids, pair, reference, same, universal


def randomised(module: Any) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounding", ["model", "none"])
def test_scaled_rows(rounding: Any, dtype: torch.dtype) -> None:
    embedding = randomised(UniversalEmbedding(Embedding(vocab=9, width=6, scale=6**0.5, scale_rounding=rounding))).to(
        dtype
    )
    x = ids(2, 4, vocab=9)
    rows = embedding.tokens.weight[x]
    expected = rows * (torch.tensor(6**0.5).to(dtype) if rounding == "model" else 6**0.5)
    assert same(embedding.look_up(x), expected)
    if dtype == torch.bfloat16 and rounding == "model":
        assert not torch.equal(expected, rows * 6**0.5)


def test_learned_positions_are_added_from_their_offset() -> None:
    part = Embedding(vocab=9, width=6, positions=LearnedPositions(count=12, offset=2), norm=Norm(kind="rms", eps=1e-3))
    embedding = randomised(UniversalEmbedding(part))
    x, positions = ids(2, 4, vocab=9), torch.tensor([[3, 4, 5, 6]])
    summed = embedding.tokens.weight[x] + embedding.positions.weight[positions + 2]
    assert same(embedding(embedding.look_up(x), positions), embedding.norm(summed))


def test_a_norm_may_stand_before_positions() -> None:
    """Behind the scale, but before what is added (BlenderbotSmall)."""
    norm, table = Norm(kind="rms", eps=1e-3), LearnedPositions(count=12)
    embedding = randomised(
        UniversalEmbedding(Embedding(vocab=9, width=6, scale=3.0, positions=table, norm=norm, norm_first=True))
    )
    x, positions = ids(2, 4, vocab=9), torch.tensor([[3, 4, 5, 6]])
    expected = embedding.norm(embedding.tokens.weight[x] * 3.0) + embedding.positions.weight[positions]
    assert same(embedding(embedding.look_up(x), positions), expected)


def test_spare_rows_stand_behind_the_vocabulary() -> None:
    """Ids that no head scores have vectors, too (Moshi, Llama 3.2 with vision)."""
    embedding = randomised(UniversalEmbedding(Embedding(vocab=9, width=6, spare=2)))
    assert embedding.tokens.weight.shape == (11, 6)
    assert same(embedding.look_up(torch.tensor([[10]])), embedding.tokens.weight[10][None, None])


def test_rows_of_types_and_tasks_stand_around_the_positions() -> None:
    """Every token gets the first of each: types before the positions (BERT), tasks behind them (ERNIE)."""
    norm = Norm(kind="layer", eps=1e-3, bias=True, rounding="native")
    part = Embedding(vocab=9, width=6, types=3, tasks=2, positions=LearnedPositions(count=12), norm=norm)
    embedding = randomised(UniversalEmbedding(part))
    x, positions = ids(2, 4, vocab=9), torch.tensor([[3, 4, 5, 6]])
    summed = embedding.tokens.weight[x] + embedding.types.weight[0] + embedding.positions.weight[positions]
    assert same(embedding(embedding.look_up(x), positions), embedding.norm(summed + embedding.tasks.weight[0]))


def test_first_rows_beside_a_token_are_joined_to_it_and_projected() -> None:
    beside = tuple(Beside(name=name, count=count, width=width) for name, count, width in (("a", 5, 3), ("b", 2, 4)))
    embedding = randomised(UniversalEmbedding(Embedding(vocab=9, width=6, padding_row=3, types=2, beside=beside)))
    assert [table.padding_row for table in embedding.beside.values()] == [3, None]
    x = ids(2, 4, vocab=9)
    rows = [embedding.beside[name].weight[0].expand(2, 4, -1) for name in ("a", "b")]
    joined = embedding.joint(torch.cat([embedding.tokens.weight[x], *rows], dim=-1))
    assert same(embedding(embedding.look_up(x), torch.arange(4)[None]), joined + embedding.types.weight[0])


@pytest.mark.parametrize("bias", [True, False])
def test_narrow_tables_are_projected_behind_the_norm(bias: bool) -> None:
    norm = Norm(kind="layer", eps=1e-3, bias=True, rounding="native")
    part = Embedding(
        vocab=9, width=6, types=2, narrow=Narrow(width=4, bias=bias), positions=LearnedPositions(count=12), norm=norm
    )
    embedding = randomised(UniversalEmbedding(part))
    x, positions = ids(2, 4, vocab=9), torch.arange(4)[None]
    rows = embedding.norm(
        embedding.tokens.weight[x] + embedding.types.weight[0] + embedding.positions.weight[positions]
    )
    assert rows.shape == (2, 4, 4) and (embedding.projection.bias is not None) == bias
    projected = nn.functional.linear(rows, embedding.projection.weight, embedding.projection.bias)
    assert same(embedding(embedding.look_up(x), positions), projected)


def test_uncounted_tokens_stand_one_row_before_the_first() -> None:
    embedding = UniversalEmbedding(
        Embedding(vocab=9, width=6, positions=LearnedPositions(count=12, offset=3, uncounted=5))
    )
    x, positions = torch.tensor([[5, 1, 5, 8], [2, 5, 3, 4]]), torch.tensor([[4, 5, 6, 7]])
    assert embedding.counted(positions, x, None).tolist() == [[-1, 4, -1, 5], [4, -1, 5, 6]]
    assert embedding.positions.padding_row == 2
    assert embedding.counted(positions, None, None) is positions


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta-xl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pads_are_not_counted_as_in_roberta(model_type: str, dtype: torch.dtype) -> None:
    """With pads in the text and no mask: logits alike, and neither row of theirs is ever trained."""
    theirs = reference(model_type, pad_token_id=3).to(dtype)
    ours = universal(theirs)
    x = torch.where(ids(2, 20) % 5 == 0, 3, ids(2, 20))
    assert bool((x == 3).any())
    logits = theirs(x, use_cache=False).logits
    assert same(ours(x).logits, logits)
    logits.float().square().sum().backward()
    ours(x).logits.float().square().sum().backward()
    for table, other in (("tokens", "word_embeddings"), ("positions", "position_embeddings")):
        mine, wanted = getattr(ours.embedding, table).weight.grad, getattr(theirs.roberta.embeddings, other).weight.grad
        assert same(mine, wanted)
    assert not bool(ours.embedding.positions.weight.grad[3].any())


def test_the_pad_row_gets_no_gradient() -> None:
    """As in torch, and with a negative pad counted from the end."""
    for pad in (3, -94):
        theirs = reference("llama", pad_token_id=pad)
        ours = universal(theirs)
        x = torch.tensor([[3, 5, 3, 7]])
        for model in (theirs, ours):
            model(x).logits.square().sum().backward()
        grad = ours.embedding.tokens.weight.grad
        assert grad is not None and not bool(grad[3].any()) and bool(grad[5].any())
        assert torch.allclose(
            grad, theirs.model.embed_tokens.weight.grad, rtol=1e-3, atol=1e-3 * float(grad.abs().max())
        )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_transform_stands_before_the_head(bias: bool, tied: bool) -> None:
    norm = Norm(kind="layer", eps=1e-3, bias=True, rounding="native")
    transform = HeadTransform(width=5, activation="relu", norm=norm, bias=bias)
    head = randomised(UniversalHead(Head(tied=tied, bias=True, scale=0.5, transform=transform), d_model=6, vocab=9))
    table, x = torch.randn(9, 5), torch.randn(2, 3, 6)
    dense = head.transform.dense
    assert (dense.bias is not None) == bias
    inner = head.transform.norm(torch.relu(nn.functional.linear(x, dense.weight, dense.bias)))
    assert same(head(x, table), nn.functional.linear(inner, table if tied else head.weight, head.bias) * 0.5)


@pytest.mark.parametrize("dtype", ["model", "float32"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("scale", "divisor", "softcap"),
    [(None, None, None), (0.25, None, None), (None, 7.0, None), (None, None, 2.0), (0.25, 3.0, 2.0)],
)
def test_the_head_is_its_definition(
    tied: bool, bias: bool, scale: float | None, divisor: float | None, softcap: float | None, dtype: Any
) -> None:
    part = Head(tied=tied, bias=bias, scale=scale, divisor=divisor, softcap=softcap, dtype=dtype)
    head = randomised(UniversalHead(part, d_model=6, vocab=9))
    assert (head.weight is None, head.bias is None) == (tied, not bias)
    table, x = torch.randn(9, 6), torch.randn(2, 3, 6)
    expected = x.double() @ (table if tied else head.weight).double().T + (head.bias.double() if bias else 0)
    expected = expected * (scale or 1) / (divisor or 1)
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    assert torch.allclose(head(x, table).double(), expected, atol=1e-5)
    assert head.to(torch.bfloat16)(x.bfloat16(), table.bfloat16()).dtype == (
        torch.float32 if dtype == "float32" else torch.bfloat16
    )


def test_a_divisor_divides() -> None:
    """The last bits of x / 7 and of x · (1/7) differ."""
    head = randomised(UniversalHead(Head(tied=False, divisor=7.0), d_model=6, vocab=9))
    x = torch.randn(2, 3, 6)
    products = x @ head.weight.T
    assert same(head(x, None), products / 7.0)
    assert not torch.equal(products / 7.0, products * (1 / 7.0))
    early = randomised(UniversalHead(Head(tied=False, input_divisor=7.0), d_model=6, vocab=9))
    assert same(early(x, None), (x / 7.0) @ early.weight.T)


def test_given_embeddings_are_scaled_where_the_part_says_so() -> None:
    x = ids(2, 4, vocab=9)
    for inputs in (False, True):
        embedding = randomised(UniversalEmbedding(Embedding(vocab=9, width=6, scale=3.0, scale_inputs=inputs)))
        rows, positions = embedding.tokens.weight[x], torch.arange(4)[None]
        assert same(embedding(rows, positions), rows * 3.0 if inputs else rows)
        assert same(embedding(embedding.look_up(x), positions), rows * 3.0)


def test_a_tied_head_follows_the_table() -> None:
    ours = universal(reference("gemma3_text"))
    assert ours.head.weight is None
    x = ids(1, 5)
    with torch.no_grad():
        before = ours(x).logits
        ours.embedding.tokens.weight[:, :] *= 2
        assert not torch.allclose(ours(x).logits, before)


def test_a_per_layer_table_is_mixed_with_the_embedding() -> None:
    norm = Norm(kind="rms", eps=1e-3)
    per_layer = PerLayerEmbedding(vocab=7, width=2, norm=norm, finds_tokens=True)
    part = Embedding(vocab=9, width=6, scale=2.0, per_layer=per_layer)
    embedding = randomised(UniversalEmbedding(part, layers=3))
    index = torch.tensor([[1, 8, 4]])
    x = embedding(embedding.look_up(index), index)
    mixed = embedding.by_layer(x, index, None)
    inner = embedding.per_layer
    rows = inner.tokens.weight[[1, 0, 4]] * 2**0.5  # a token beyond the table reads row 0
    projected = inner.norm((x @ inner.projection.weight.T * 6**-0.5).unflatten(-1, (3, 2)))
    expected = (projected + rows.view(1, 3, 3, 2)) * 2**-0.5
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert torch.equal(embedding.by_layer(x, None, embedding.look_up(index)), mixed)
    with pytest.raises(InputError, match="rows of the scaled token table"):
        embedding.by_layer(x, None, x + 0.5)
    without = UniversalEmbedding(
        dataclasses.replace(part, per_layer=dataclasses.replace(per_layer, finds_tokens=False)), layers=3
    )
    without.load_state_dict(embedding.state_dict())
    assert torch.allclose(without.by_layer(x, None, x), projected, atol=1e-6)


def test_positions_beyond_a_learned_table_are_refused() -> None:
    with pytest.raises(InputError, match="positions beyond the learned table: at most 96"):
        pair("gpt2")[1](ids(1, 97))
    pair("gpt2")[1](ids(1, 96))


@pytest.mark.parametrize("arguments", [{}, {"input_ids": ids(1, 3), "inputs_embeds": torch.zeros(1, 3, 48)}])
def test_ids_or_embeddings_but_not_both(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="exactly one"):
        pair("llama")[1](**arguments)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "cohere2"])
def test_embeddings_stand_in_for_ids_as_in_the_reference(model_type: str) -> None:
    theirs, ours = pair(model_type)
    x = ids(2, 20)
    with torch.no_grad():
        rows = theirs.get_input_embeddings()(x)
        assert same(ours(inputs_embeds=rows).logits, theirs(inputs_embeds=rows, use_cache=False).logits)
        assert torch.equal(ours(inputs_embeds=ours.embedding.look_up(x)).logits, ours(x).logits)


@pytest.mark.parametrize("keep", [1, 3, torch.tensor([0, 4, 5])])
def test_logits_to_keep_are_the_references(keep: Any) -> None:
    for model_type in ("llama", "gpt2"):
        theirs, ours = pair(model_type)
        x = ids(2, 20)
        with torch.no_grad():
            found = ours(x, logits_to_keep=keep).logits
            assert same(found, theirs(x, use_cache=False, logits_to_keep=keep).logits)
            assert found.shape[1] == (keep if isinstance(keep, int) else len(keep))


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_next"])
def test_positions_of_the_users_own(model_type: str) -> None:
    theirs, ours = pair(model_type)
    x, positions = ids(2, 12), torch.stack([torch.arange(12) + 5, torch.arange(12)])
    with torch.no_grad():
        assert same(ours(x, position_ids=positions).logits, theirs(x, position_ids=positions, use_cache=False).logits)


def test_a_model_says_where_and_what_it_is() -> None:
    ours = universal(reference("llama")).to(torch.bfloat16)
    assert (ours.device, ours.dtype) == (torch.device("cpu"), torch.bfloat16)
    with torch.device("meta"):
        assert UniversalTransformer(ours.n).device.type == "meta"
