"""What early decoders do otherwise, held to the references' own modules: in wide weights, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.bloom.modeling_bloom import BloomConfig, BloomGelu, BloomModel, build_alibi_tensor
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.ctrl.modeling_ctrl import positional_encoding
from transformers.models.gpt_neo.modeling_gpt_neo import GPTNeoConfig, GPTNeoSelfAttention
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.openai.modeling_openai import Attention as FirstAttention
from transformers.models.openai.modeling_openai import OpenAIGPTConfig
from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
from transformers.models.stablelm.modeling_stablelm import StableLmLayerNormPerHead

from nexus_universal.architecture.ends import Embedding
from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.position import Alibi, LearnedPositions, Norm, SinusoidPositions
from nexus_universal.layers.activations import gelu_derived
from nexus_universal.layers.alibi import UniversalAlibi
from nexus_universal.layers.ends import UniversalEmbedding
from nexus_universal.layers.kernels import added_eager_attention, divided_eager_attention
from nexus_universal.layers.masks import Extent, additive
from nexus_universal.layers.norms import HeadNorms
from nexus_universal.layers.tables import SinusoidTable
from tests.helpers import same, widen

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
SEEN = torch.ones(11, 11, dtype=torch.bool).tril()[None, None]


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise.to(dtype).requires_grad_()


def same_with_gradients(ours: Tensor, theirs: Tensor, *pairs: tuple[Tensor, Tensor]) -> bool:
    """Equal bits, and of the gradients of both too; each pair is what ours and theirs were computed from."""
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9)).to(ours.dtype)
    left = torch.autograd.grad((ours * weight).sum(), [mine for mine, _ in pairs])
    right = torch.autograd.grad((theirs * weight).sum(), [other for _, other in pairs])
    return same(ours, theirs) and all(same(a, b.reshape(a.shape)) for a, b in zip(left, right, strict=True))


@DTYPES
def test_a_gelu_with_a_derivative_of_its_own(dtype: torch.dtype) -> None:
    x, y = drawn(40, 33, dtype=dtype), drawn(40, 33, dtype=dtype)
    assert same_with_gradients(gelu_derived(x), BloomGelu()(y), (x, y))


@DTYPES
def test_norms_of_each_heads_own_are_the_references(dtype: torch.dtype) -> None:
    theirs: Any = widen(StableLmLayerNormPerHead(8, 3, eps=1e-3)).to(dtype)
    ours = HeadNorms.of_heads(Norm(kind="layer", eps=1e-3, rounding="native"), (3, 8)).to(dtype)
    ours.load_state_dict({"weight": torch.stack([norm.weight for norm in theirs.norms])})
    x, y = drawn(2, 3, 5, 8, dtype=dtype), drawn(2, 3, 5, 8, dtype=dtype)
    assert same_with_gradients(ours(x), theirs(y), (x, y))
    theirs = widen(CohereLayerNorm(hidden_size=(3, 8), eps=1e-3)).to(dtype)
    ours = HeadNorms.of_heads(Norm(kind="layer", eps=1e-3, rounding="after_scale"), (3, 8)).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x, y = drawn(2, 5, 3, 8, dtype=dtype), drawn(2, 5, 3, 8, dtype=dtype)
    assert same_with_gradients(ours(x), theirs(y), (x, y))


def test_own_norms_that_nobody_computes_are_refused() -> None:
    native = Norm(kind="layer", eps=1e-3, rounding="native")
    written = Norm(kind="layer", eps=1e-3, rounding="after_scale")
    for norm, order in ((native, "positions"), (written, "heads")):
        assert [name for name, _ in QueryKeyNorm(norm=norm, own=True, order=order).problems()] == ["order"]
    with pytest.raises(UnsupportedPart, match="kind"):
        HeadNorms.of_heads(Norm(kind="rms", eps=1e-3), (2, 8))


@DTYPES
def test_scores_in_float32_are_the_references(dtype: torch.dtype) -> None:
    settings = GPTNeoConfig(hidden_size=24, num_heads=3, max_position_embeddings=32, attn_implementation="eager")
    theirs = GPTNeoSelfAttention(settings, "global")
    theirs.bias.copy_(torch.ones(32, 32, dtype=torch.bool).tril())
    mine, other = ([drawn(2, 3, 11, 8, dtype=dtype, seed=i) for i in range(3)] for _ in range(2))
    ours = divided_eager_attention(*mine, mask=additive(SEEN, dtype), scale=1.0, wide=True)
    expected = theirs.eval()._attn(*other)[0].transpose(1, 2)
    assert same_with_gradients(ours, expected, *zip(mine, other, strict=True))


@DTYPES
def test_divided_scores_are_the_references(dtype: torch.dtype) -> None:
    theirs = FirstAttention(24, 32, OpenAIGPTConfig(n_embd=24, n_head=3, n_positions=32), scale=True).eval().to(dtype)
    mine, other = ([drawn(2, 3, 11, 8, dtype=dtype, seed=i) for i in range(3)] for _ in range(2))
    ours = divided_eager_attention(*mine, mask=additive(SEEN, dtype), scale=8**-0.5)
    expected = theirs._attn(other[0], other[1].transpose(2, 3), other[2])[0].transpose(1, 2)
    assert same_with_gradients(ours, expected, *zip(mine, other, strict=True))


@DTYPES
def test_scores_added_to_the_mask_are_the_references(dtype: torch.dtype) -> None:
    theirs: Any = widen(BloomModel(BloomConfig(vocab_size=11, hidden_size=24, n_head=3, n_layer=1))).to(dtype).eval()
    attention, real = theirs.h[0].self_attention, torch.ones(2, 11, dtype=torch.long)
    x, alibi = drawn(2, 11, 24, dtype=dtype), build_alibi_tensor(real, 3, dtype)
    fused = attention.query_key_value(x).unflatten(-1, (3, 3, 8)).transpose(1, 2)
    bias = torch.where(SEEN, alibi.view(2, 3, 1, 11), torch.finfo(dtype).min)
    mixed = added_eager_attention(*fused.unbind(-2), mask=bias, scale=8**-0.5)
    ours = attention.dense(mixed.flatten(-2))
    expected = attention(x, torch.zeros_like(x), alibi, additive(SEEN, dtype))[0]
    assert same_with_gradients(ours, expected, (x, x))


def test_biases_counted_from_the_last_key_are_the_references() -> None:
    part = Alibi(rounding="none", origin="last", slopes="reciprocals")
    for heads in (1, 4, 6, 12, 32):
        made = UniversalAlibi(part, heads=heads, scale=1.0)
        extent = Extent(queries=11, keys=11, query_offset=0, key_offset=0)
        ours = made.masked(SEEN, extent, torch.ones(1, 11, dtype=torch.bool), torch.bfloat16)
        expected = build_mpt_alibi_tensor(heads, 32)[:, :, -11:].expand(heads, 11, 11)
        assert ours.dtype == torch.float32 and same(ours[0][:, SEEN[0, 0]], expected[:, SEEN[0, 0]])


@pytest.mark.parametrize("width", [48, 36, 10])
def test_single_precision_sinusoids_are_the_references(width: int) -> None:
    table = SinusoidTable(SinusoidPositions(count=70, layout="sin_cos", angles="float32"), width)
    assert same(table(torch.arange(70)), positional_encoding(70, width, torch.float))


def test_positions_that_count_what_a_mask_shows_are_the_references() -> None:
    theirs = OPTLearnedPositionalEmbedding(20, 6)
    part = Embedding(vocab=9, width=6, positions=LearnedPositions(count=22, offset=2, masked=True))
    ours = UniversalEmbedding(part)
    ours.positions.weight = nn.Parameter(theirs.weight.detach())
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 0, 1, 0]])
    counted = ours.counted(torch.arange(2, 6)[None], None, mask)
    assert same(ours.positions(counted + 2), theirs(mask, past_key_values_length=2))
    plain = torch.arange(6)[None]
    assert same(ours.counted(plain, None, None), plain)
