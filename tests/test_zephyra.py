"""Zephyra Fusion: its parts against torch's own modules, the whole against them put together, and every law."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nexus_universal import ArchitectureParameter, UniversalTransformer, zephyra
from nexus_universal.architecture.errors import InputError, InvalidArchitecture, UnsupportedConfig
from nexus_universal.parity.laws import check_laws
from nexus_universal.parity.modes import sample
from tests.helpers import furthest, ids, same, widen

SIZES: dict[str, Any] = {
    "n_src_vocab": 97,
    "d_word_vec": 24,
    "n_layers": 2,
    "n_head": 4,
    "d_k": 10,
    "d_v": 6,
    "d_model": 32,
    "d_inner": 40,
}
CUTOFFS = (11, 40)


def tiny(**changes: Any) -> Any:
    """Wide weights, and a table of 96 positions."""
    model = zephyra.ZephyraFusion(**{**SIZES, "n_position": 96, "cutoffs": CUTOFFS, **changes})
    return widen(model).eval()


def later_positions(seq: int) -> Tensor:
    """True where a query may not see a key, as torch's modules ask for it."""
    return torch.ones(seq, seq, dtype=torch.bool).triu(1)


def copied(target: Any, source: Any) -> None:
    target.weight.data.copy_(source.weight.data)
    if target.bias is not None:
        target.bias.data.copy_(source.bias.data)


def attention_parts(attention: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias as torch's attention keeps them: [q|k|v]."""
    roles = (attention.query, attention.key, attention.value)
    return torch.cat([role.weight for role in roles]), torch.cat([role.bias for role in roles])


def torchs_layer(block: Any, *, d_model: int, d_inner: int, n_head: int) -> Any:
    """torch's post-norm encoder layer with a block's weights."""
    layer: Any = nn.TransformerEncoderLayer(
        d_model, n_head, d_inner, dropout=0.0, activation="relu", batch_first=True, norm_first=False
    )
    weight, bias = attention_parts(block.attention)
    layer.self_attn.in_proj_weight.data.copy_(weight.data)
    layer.self_attn.in_proj_bias.data.copy_(bias.data)
    copied(layer.self_attn.out_proj, block.attention.output)
    copied(layer.linear1, block.feed_forward.up)
    copied(layer.linear2, block.feed_forward.down)
    copied(layer.norm1, block.attention_x_write_norm)
    copied(layer.norm2, block.feed_forward_x_write_norm)
    return layer.double()


def test_attention_is_torchs_where_keys_and_values_are_as_wide_as_a_head() -> None:
    ours: Any = widen(zephyra.MultiHeadAttention(n_head=4, d_model=32, d_k=8, d_v=8)).double()
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).double()
    weight, bias = attention_parts(ours)
    theirs.in_proj_weight.data.copy_(weight.data)
    theirs.in_proj_bias.data.copy_(bias.data)
    copied(theirs.out_proj, ours.output)
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    expected, _ = theirs(x, x, x, attn_mask=later_positions(20), need_weights=False)
    assert furthest(ours(x), expected) < 1e-13


@pytest.mark.parametrize(("d_k", "d_v"), [(10, 6), (6, 12), (8, 8)])
def test_keys_and_values_may_differ_in_width(d_k: int, d_v: int) -> None:
    """Held to torch's fused attention on heads that are cut and joined here."""
    ours: Any = widen(zephyra.MultiHeadAttention(n_head=4, d_model=32, d_k=d_k, d_v=d_v))
    x = torch.randn(2, 20, 32)

    def heads(role: Any, width: int) -> Tensor:
        return F.linear(x, role.weight, role.bias).view(2, 20, 4, width).transpose(1, 2)

    query, key, value = heads(ours.query, d_k), heads(ours.key, d_k), heads(ours.value, d_v)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    joined = mixed.transpose(1, 2).reshape(2, 20, 4 * d_v)
    expected = F.linear(joined, ours.output.weight, ours.output.bias)
    assert furthest(ours(x), expected) < 1e-6
    alone = zephyra.ScaledDotProductAttention(temperature=d_k**0.5)
    assert furthest(alone(query, key, value, mask=~later_positions(20)), mixed) < 1e-6


def test_the_feed_forward_is_two_linears_and_a_relu() -> None:
    ours: Any = widen(zephyra.PositionwiseFeedForward(32, 40))
    theirs: Any = nn.Sequential(nn.Linear(32, 40), nn.ReLU(), nn.Linear(40, 32))
    copied(theirs[0], ours.up)
    copied(theirs[2], ours.down)
    x = torch.randn(2, 5, 32)
    assert same(ours(x), theirs(x))


@pytest.mark.parametrize("training", [False, True])
def test_the_block_is_torchs_post_norm_layer(training: bool) -> None:
    """torch computes it in one fused kernel or step by step; gradients are compared where it has them."""
    block: Any = widen(zephyra.ZephyraFusionBlock(d_model=32, d_inner=40, n_head=4, d_k=8, d_v=8)).double()
    layer = torchs_layer(block, d_model=32, d_inner=40, n_head=4).train(training)
    x = torch.randn(2, 20, 32, dtype=torch.float64)
    with torch.set_grad_enabled(training):
        found, expected = block(x), layer(x, src_mask=later_positions(20), is_causal=True)
    assert furthest(found, expected) < 1e-12
    if training:
        direction = torch.randn_like(found)
        (found * direction).sum().backward()
        (expected * direction).sum().backward()
        assert furthest(block.feed_forward.up.weight.grad, layer.linear1.weight.grad) < 1e-11
        _, bias = layer.self_attn.in_proj_weight.grad, layer.self_attn.in_proj_bias.grad
        assert furthest(block.attention.value.bias.grad, bias[-32:]) < 1e-11


def test_adaptive_input_by_its_document_name() -> None:
    """embedding_dim is both the first band's width and what comes out."""
    module = zephyra.AdaptiveInput(num_embeddings=97, embedding_dim=32, cutoffs=CUTOFFS)
    assert [tuple(band.rows.weight.shape) for band in module.bands] == [(11, 32), (29, 8), (57, 2)]  # type: ignore[union-attr]
    x = module(torch.arange(97)[None]).detach()
    assert x.shape == (1, 97, 32)
    stds = [float(x[0, start:end].std()) for start, end in pairwise((0, *CUTOFFS, 97))]
    assert max(stds) < 3 * min(stds)  # every band starts about as loud, however narrow


def test_the_whole_model_is_torchs_modules_put_together() -> None:
    """Embeddings and projections by band, a sinusoid table, post-norm layers, the adaptive softmax: in float64."""
    model = tiny(d_k=8, d_v=8).double()
    index, positions = ids(2, 40), torch.arange(40)[None] + 7
    edges = (0, *CUTOFFS, 97)
    x = torch.zeros(2, 40, 32, dtype=torch.float64)
    for (start, end), band in zip(pairwise(edges), model.embedding.tokens.bands, strict=True):
        mine = (index >= start) & (index < end)
        x[mine] = F.linear(F.embedding(index[mine] - start, band.rows.weight), band.projection.weight)
    angles = positions[..., None].double() / 10000 ** (torch.arange(0, 32, 2) / 32).double()
    table = torch.zeros(1, 40, 32, dtype=torch.float64)
    table[..., 0::2], table[..., 1::2] = angles.sin(), angles.cos()
    x = x + table.float()
    with torch.no_grad():
        for block in model.layers:
            layer = torchs_layer(copy.deepcopy(block), d_model=32, d_inner=40, n_head=4).eval()
            x = layer(x, src_mask=later_positions(40), is_causal=True)
        head = nn.AdaptiveLogSoftmaxWithLoss(32, 97, cutoffs=list(CUTOFFS), div_value=4.0).double()
        given = [model.head.first.weight, *(w for tail in model.head.tails for w in tail.parameters())]
        for mine, other in zip(given, [head.head.weight, *head.tail.parameters()], strict=True):
            other.data.copy_(mine.data)
        expected = head.log_prob(x.flatten(0, 1)).unflatten(0, (2, 40))
        assert furthest(model(index, positions).logits, expected) < 1e-9


def test_every_law_holds() -> None:
    """Cached, chunked, padded, permuted, forked, saved: as for any n. What must be equal in bits is."""
    model = tiny()
    plain = UniversalTransformer(model.n).eval()
    plain.load_state_dict(model.state_dict())
    drawn = sample(97, length=90, batch=3, seed=0)
    with torch.no_grad():
        full, wide = plain(drawn.ids).logits, copy.deepcopy(plain).double()(drawn.ids).logits
    floor = 4 * max(float((full - wide).abs().max()), 1e-6)
    assert floor < 1e-3
    laws = check_laws(plain, drawn, floor=floor)
    assert len(laws) > 10
    assert not [law for law in laws if not law.holds]


def test_positions_are_rows_of_the_table_counted_from_zero() -> None:
    model, x = tiny(), ids(1, 12)
    with torch.no_grad():
        plain = model(x).logits
        assert same(model(x, torch.arange(12)[None]).logits, plain)
        moved = model(x, torch.arange(12)[None] + 5).logits
        assert furthest(moved, plain) > 1e-3
        for beyond in (torch.arange(12)[None] + 85, torch.arange(12)[None] - 1):
            with pytest.raises(InputError, match="at most 96"):
                model(x, beyond)
    with pytest.raises(InputError, match="90 tokens and 8 new ones"):
        model.generate(ids(1, 90), max_new_tokens=8)


def test_generation_with_and_without_a_cache_is_argmax_of_the_whole() -> None:
    model, prompt = tiny(), ids(1, 9)
    cached = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert cached.tolist() == model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=False).tolist()
    longer = prompt
    for _ in range(12):
        longer = torch.cat([longer, model(longer).logits[:, -1:].argmax(-1)], dim=1)
    assert cached.tolist() == longer.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny().to(dtype)
    model.save_pretrained(tmp_path / "saved", format="nexus")
    for cls in (UniversalTransformer, zephyra.ZephyraFusion):
        loaded = cls.from_pretrained(tmp_path / "saved")
        assert loaded.n == model.n
        assert same(loaded(ids(2, 20)).logits, model(ids(2, 20)).logits)
    assert ArchitectureParameter.from_json(model.n.to_json()) == model.n
    with pytest.raises(UnsupportedConfig, match="'nexus'"):
        model.save_pretrained(tmp_path / "huggingface")


@pytest.mark.parametrize("context", [2, 23])
def test_the_count_is_the_models(context: int) -> None:
    model, cache = tiny(), tiny().new_cache()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(ids(1, context - 1), cache=cache)
        with counter:
            model(ids(1, 1), cache=cache)
    count = model.n.count(context=context, dtype="float32")
    assert count.parameters == sum(weight.numel() for weight in model.parameters())
    assert count.flops_per_token == counter.get_total_flops()
    assert cache.nbytes == count.fixed_state_bytes + context * count.cache_bytes_per_token


def test_the_formula_says_all_of_it() -> None:
    text = str(tiny().n.formula())
    for piece in ("[11, 40)", "T⁽¹⁾ ∈ ℝ^(29 × 6)", "LN(x + attention(x))", "ℝ^(4 × 10)", "ℝ^(4 × 6)", "relu"):
        assert piece in text
    assert "sin(aᵢ)" in text and "logsoftmax" in text and "[0, 96)" in text
    assert tiny().n.pos_embedding_type == "sinusoid"


def test_gradients_reach_every_weight() -> None:
    model = tiny()
    F.nll_loss(model(ids(4, 60)).logits.flatten(0, 1), ids(4, 60, seed=2).flatten()).backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_it_is_one_graph() -> None:
    model = tiny()
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert same(graph(ids(2, 20)).logits, model(ids(2, 20)).logits)


def test_cutoffs_follow_the_vocabulary_unless_they_are_given() -> None:
    assert zephyra.proportional_cutoffs(260_000) == (20_000, 60_000)
    assert zephyra.proportional_cutoffs(5) == (1,)
    n = zephyra.parameter(**{**SIZES, "n_src_vocab": 1000, "d_model": 64, "d_word_vec": 64})
    assert n.embedding.bands is not None and n.head.bands is not None
    assert n.embedding.bands.cutoffs == n.head.bands.cutoffs == (76, 230)
    with pytest.raises(InvalidArchitecture, match="below vocab"):
        zephyra.ZephyraFusion(**SIZES, cutoffs=(50, 97))
