"""The indexer against the reference's own, and what it chooses against its definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer
from transformers.models.dots3_note.modeling_dots3_note import Dots3NoteTextIndexer
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import GlmMoeDsaIndexer

from nexus_universal.architecture.mixers import ReusedIndices, SparseIndexer
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.cache import IndexedState
from nexus_universal.layers.call import CallPlan, MaskKind
from nexus_universal.layers.sparse_indexer import ReusedSelection, UniversalSparseIndexer
from tests.helpers import config, same

WIDTH, RANK, SEQ = 48, 28, 23
TO_HALF = {"pairing": "interleaved_to_half"}
REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "deepseek_v32": (DeepseekV32Indexer, {"pairing": "half"}),
    "glm_moe_dsa": (GlmMoeDsaIndexer, TO_HALF),
    "dots3_note_text": (Dots3NoteTextIndexer, TO_HALF | {"table": "float32", "product": "float32", "rounded": "kept"}),
}
PART = SparseIndexer(
    heads=12,
    head_dim=20,
    keep=5,
    key_norm=Norm(kind="layer", eps=1e-6, bias=True, rounding="native"),
    rope=Rope(theta=500.0),
    rope_dim=8,
    emit="chosen",
)


def built(part: SparseIndexer, dtype: torch.dtype = torch.float32) -> tuple[UniversalSparseIndexer, CallPlan]:
    plan = CallPlan()
    ours = UniversalSparseIndexer(part, d_model=WIDTH, query_rank=RANK, plan=plan)
    plan.mask(MaskKind(form="always"), "mixer")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return ours.to(dtype), plan


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x, latent = (torch.randn(2, SEQ, width, generator=generator) for width in (WIDTH, RANK))
    return x.to(dtype), latent.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", REFERENCES)
def test_it_chooses_as_the_reference_does(model_type: str, dtype: torch.dtype) -> None:
    """The same keys, and in the same order, which their scores decide."""
    kind, form = REFERENCES[model_type]
    assert PART.rope is not None
    ours, plan = built(replace(PART, rope=replace(PART.rope, **form)), dtype)
    theirs = kind(config(model_type, index_topk=5).per_layer_config[0], layer_idx=0).to(dtype)
    names = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weights": "weights_proj"}
    theirs.load_state_dict({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in ours.state_dict().items()})
    x, latent = inputs(dtype)
    call = plan.begin(x)
    mask = call.masks[0]
    assert mask is not None
    narrowed = ours(x, latent, mask, call, None)
    expected = theirs(x, latent, call.tables[0], mask[:, 0], position_ids=None)
    assert same(call.emitted["chosen"][0].float(), expected.float())
    assert int(narrowed[0, 0, -1].sum()) == 5
    assert bool((narrowed <= mask).all()) and not narrowed.requires_grad


def test_the_chosen_have_the_highest_scores() -> None:
    ours, plan = built(replace(PART, rope=None, rope_dim=None))
    x, latent = inputs()
    call = plan.begin(x)
    assert call.masks[0] is not None
    seen = ours(x, latent, call.masks[0], call, None)[:, 0]
    query = (latent.double() @ ours.query.weight.double().T).unflatten(-1, (12, 20))
    key = torch.nn.functional.layer_norm(x.double() @ ours.key.weight.double().T, (20,)) * ours.key_norm.gain().double()
    key = key + ours.key_norm.bias.double()  # type: ignore[union-attr]
    weights = x.double() @ ours.weights.weight.double().T
    scores = torch.einsum("bshk,btk->bsht", query, key).relu().mul(weights[..., None]).sum(2)
    scores = scores.masked_fill(torch.ones(SEQ, SEQ).triu(1).bool(), float("-inf"))
    least = scores.masked_fill(~seen, float("inf")).amin(-1)
    most = scores.masked_fill(seen, float("-inf")).amax(-1)
    assert bool((least > most).all())


def test_pieces_choose_among_what_is_cached() -> None:
    ours, plan = built(PART)
    x, latent = inputs()
    state, whole = IndexedState(), plan.begin(x)
    assert whole.masks[0] is not None
    expected = ours(x, latent, whole.masks[0], whole, None)
    for start, end in ((0, 14), (14, 15), (15, SEQ)):
        call = plan.begin(x[:, start:end], positions=torch.arange(start, end)[None])
        mask = whole.masks[0][:, :, start:end, :end]
        found = ours(x[:, start:end], latent[:, start:end], mask, call, state)
        assert torch.equal(found, expected[:, :, start:end, :end])
    assert state.index is not None and state.index.shape == (2, SEQ, 20)
    state.crop(4, seen=SEQ)
    assert state.index.shape == (2, 4, 20)


def test_an_additive_mask_is_narrowed_alike_and_indices_are_reused() -> None:
    ours, plan = built(PART)
    x, latent = inputs()
    call = plan.begin(x)
    mask = call.masks[0]
    assert mask is not None
    narrowed = ours(x, latent, mask, call, None)
    lowest = torch.finfo(torch.float32).min
    added = ours(x, latent, torch.zeros(mask.shape).masked_fill(~mask, lowest), call, None)
    assert torch.equal(added == 0, narrowed)
    reused = ReusedSelection(ReusedIndices(reuse="chosen"))
    assert torch.equal(reused(x, latent, mask, call, None), narrowed)
