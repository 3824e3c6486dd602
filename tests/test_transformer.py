"""The one class as a whole: what a call gives, gradients, trained checkpoints, and how it behaves as a module."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from nexus_universal import UniversalTransformer, families
from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import idle_layers, plan_load
from nexus_universal.parity.draws import pads_leak, scans_restart
from nexus_universal.parity.modes import Reference, positions_of
from nexus_universal.parity.quirks import quirks
from nexus_universal.transformer import CausalOutput
from tests.helpers import MODEL_TYPES, furthest, ids, pair, reference, rows, same, single_changes, universal

types = pytest.mark.parametrize("model_type", MODEL_TYPES)
TRAINED = ("qwen3", "gemma3_text", "glm4_moe_lite")


@types
@torch.no_grad()
def test_a_call_is_the_references_bit_for_bit(model_type: str) -> None:
    """Prefill, a left-padded batch, and a cached continuation by one token, by two and by more."""
    theirs, ours = pair(model_type)
    x, mask = ids(2, 40), torch.ones(2, 40, dtype=torch.long)
    mask[0, : 0 if pads_leak(ours.n) else 11] = 0
    positions = positions_of(mask, "slots" if quirks(model_type).counts_slots else "tokens")
    assert same(ours(x).logits, theirs(x, use_cache=False).logits)
    side, cache = Reference(theirs), ours.new_cache()
    expected = side(x, mask=mask, positions=positions)
    assert same(ours(x, attention_mask=mask, position_ids=positions).logits[mask.bool()], expected[mask.bool()])
    kept = side.new_cache()
    for piece in x[: rows(model_type, 2)].split(
        [28, *(1,) * 12] if scans_restart(ours.n) else [28, 1, 2, 4, 1, 4], dim=1
    ):
        expected = side(piece, cache=kept)
        found = ours(piece, cache=cache).logits
        assert furthest(found, expected) < 1e-5 if side.quirks.reads_anew else same(found, expected)


@types
@torch.no_grad()
def test_every_drawn_value_is_the_references_bit_for_bit(model_type: str) -> None:
    """Past the window and, where there is one, past the original context."""
    x, other = ids(1, 70), []
    for key, value in single_changes(model_type):
        theirs = reference(model_type, **{key: value})
        if not same(universal(theirs)(x).logits, theirs(x, use_cache=False).logits):
            other.append((key, value))
    assert not other


@types
def test_gradients_are_the_references(model_type: str) -> None:
    """In evaluation mode: dropout belongs to training recipes, not to n. What only chooses gets none, nor do towers."""
    theirs = reference(model_type)
    ours = universal(theirs)
    x = ids(2, 24)
    for model in (theirs, ours):
        logits = (model(x) if model is ours else model(x, use_cache=False)).logits
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
    gradients = reference(model_type)
    with torch.no_grad():
        weights, idle = families.find(model_type).weights, idle_layers(ours)
        for parameter, (name, source) in zip(gradients.parameters(), theirs.named_parameters(), strict=True):
            assert source.grad is None or not weights.carries(name, idle=idle), name
            parameter.copy_(torch.zeros_like(source) if source.grad is None else source.grad)
    expected = dict(universal(gradients).named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = expected[name].detach()
        assert (parameter.grad is not None and bool(parameter.grad.any())) == bool(wanted.any()), name
        assert parameter.grad is None or not wanted.any() or furthest(parameter.grad, wanted) < 1e-3, name


@pytest.mark.parametrize("model_type", TRAINED)
@torch.no_grad()
def test_trained_checkpoints_are_the_references_bit_for_bit(model_type: str, trained: dict[str, Path]) -> None:
    """Trained weights have the outliers that random ones lack."""
    theirs = AutoModelForCausalLM.from_pretrained(trained[model_type], dtype="auto").eval()
    ours = UniversalTransformer.from_pretrained(trained[model_type])
    assert ours.dtype == theirs.dtype
    for length in (1, 7, 150):
        x = ids(2, length, vocab=ours.n.d_vocab)
        assert same(ours(x).logits, theirs(x, use_cache=False).logits)


# What a call gives and takes


def test_what_a_call_gives() -> None:
    ours = pair("llama")[1]
    out = ours(ids(2, 5))
    assert isinstance(out, CausalOutput) and out.logits.shape == (2, 5, 97) and out.cache is None
    assert ours(ids(2, 5), logits_to_keep=2).logits.shape == (2, 2, 97)


@types
def test_a_call_leaves_its_arguments_alone(model_type: str) -> None:
    ours = pair(model_type)[1]
    x, mask = ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    before = [tensor.clone() for tensor in (x, mask, positions)]
    with torch.no_grad():
        ours(x, attention_mask=mask, position_ids=positions)
    assert all(torch.equal(*both) for both in zip((x, mask, positions), before, strict=True))


@types
@torch.no_grad()
def test_a_mask_of_ones_changes_no_bit(model_type: str) -> None:
    ours = pair(model_type)[1]
    for length in (1, 20):
        x = ids(2, length)
        assert same(ours(x, attention_mask=torch.ones_like(x)).logits, ours(x).logits)


@torch.no_grad()
def test_a_cache_of_other_rows_or_another_model_is_refused() -> None:
    ours = pair("llama")[1]
    cache = ours.new_cache(2)
    ours(ids(2, 4), cache=cache)
    with pytest.raises(InputError, match="the cache holds 2 rows, the call has 3"):
        ours(ids(3, 1), cache=cache)
    with pytest.raises(InputError, match="this cache has no state for layers"):
        pair("qwen3_next")[1](ids(2, 1), cache=cache)
    assert cache.length == 4 and ours(ids(2, 1), cache=cache).logits.shape == (2, 1, 97)


@torch.no_grad()
def test_a_refused_call_leaves_the_cache_as_it_was() -> None:
    ours = pair("gpt2")[1]
    cache = ours.new_cache()
    ours(ids(1, 90), cache=cache)
    expected = ours(ids(1, 1), cache=cache.fork()).logits
    for wrong in (ids(1, 7), torch.tensor([[97]])):
        with pytest.raises(InputError):
            ours(wrong, cache=cache)
    assert cache.length == 90 and same(ours(ids(1, 1), cache=cache).logits, expected)


# A module like any other


@types
def test_a_state_dict_goes_round(model_type: str) -> None:
    ours = pair(model_type)[1]
    other = UniversalTransformer(ours.n)
    missing = other.load_state_dict(ours.state_dict(), assign=True)
    assert not missing.missing_keys and not missing.unexpected_keys
    with torch.no_grad():
        assert same(other.eval()(ids(1, 9)).logits, ours(ids(1, 9)).logits)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("model_type", ["qwen3_next", "glm4_moe_lite", "gemma3_text"])
def test_a_model_can_be_copied(model_type: str, how: str) -> None:
    ours = universal(reference(model_type))
    with torch.no_grad():
        expected = ours(ids(1, 20)).logits
    twin = copy.deepcopy(ours) if how == "deepcopy" else pickle.loads(pickle.dumps(ours))
    with torch.no_grad():
        assert same(twin(ids(1, 20)).logits, expected)
        for parameter in ours.parameters():
            parameter.zero_()
        assert same(twin(ids(1, 20)).logits, expected)
        cache = twin.new_cache()
        twin(ids(1, 20), cache=cache)
        assert cache.length == 20


@types
def test_parameters_are_those_that_n_counts(model_type: str) -> None:
    theirs, ours = pair(model_type)
    family, layers, idle = families.find(model_type), ours.n.num_layers, idle_layers(ours)

    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    sources = plan_load(ours, family.weights, shapes).sources
    loaded = {part for _, parts in sources.values() for part in parts}
    buffers = {part for name, _ in ours.named_buffers() for part in sources[name][1]}  # parameters of some references

    def unused(name: str) -> bool:
        passed_over = family.left_out and family.weights.reason_to_pass_over(name, layers=layers)
        return bool(passed_over and name not in loaded) or name in buffers or family.weights.carries(name, idle=idle)

    expected = sum(parameter.numel() for name, parameter in theirs.named_parameters() if not unused(name))
    assert sum(parameter.numel() for parameter in ours.parameters()) == expected


@types
def test_a_cast_runs_in_its_dtype(model_type: str) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        ours = universal(reference(model_type)).to(dtype)
        with torch.no_grad():
            logits = ours(ids(1, 9)).logits
        assert logits.dtype == (dtype if ours.n.head.dtype == "model" else torch.float32)
        assert bool(torch.isfinite(logits).all())


@types
def test_float64_agrees_with_float32(model_type: str) -> None:
    ours = pair(model_type)[1]
    wide = copy.deepcopy(ours).double()
    with torch.no_grad():
        assert furthest(ours(ids(2, 30)).logits.double(), wide(ids(2, 30)).logits) < 1e-3


def test_one_axis_of_n_can_be_swapped_and_the_weights_kept() -> None:
    """Another window, the same parameters: the change is felt only past it."""
    ours = pair("llama")[1]
    n = ours.n.replace("layers.*.mixer.window", 4)
    swapped = UniversalTransformer(n).eval()
    swapped.load_state_dict(ours.state_dict(), assign=True)
    with torch.no_grad():
        near, far = swapped(ids(1, 20)).logits, ours(ids(1, 20)).logits
    assert torch.allclose(near[:, :4], far[:, :4], atol=1e-5) and not torch.allclose(near[:, 4:], far[:, 4:], atol=1e-3)
