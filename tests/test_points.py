"""Activation points: the same names everywhere, the reference's numbers, and nothing moved by looking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from tests.helpers import MODEL_TYPES, floor_of, reference, universal
from tests.helpers import ids_without_pads as ids

LENGTH = 12


def both(model_type: str, **changes: Any) -> tuple[Any, Any]:
    theirs = reference(model_type, **changes).eval()
    return theirs, universal(theirs).eval().requires_grad_(False)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_architecture_has_the_points_and_looking_moves_no_bit(model_type: str) -> None:
    _, model = both(model_type)
    before = model(ids(2, LENGTH)).logits
    branches = {name for layer in model.n.layers for name, _ in layer.all_branches()}
    named = [point for point in model.points() if point.endswith(tuple(f".{name}.output" for name in branches))]
    with model.record("layers.*.output", *named, "head.output") as seen:
        logits = model(ids(2, LENGTH)).logits
    assert torch.equal(logits, before)
    assert torch.equal(seen["head.output"], before)
    assert {f"layers.{index}.output" for index in range(len(model.n.layers))} <= seen.keys()
    assert all(any(f".{name}.output" in point for point in seen) for name in branches)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "qwen3_next", "gpt2", "deepseek_v3"])
def test_a_layers_output_is_the_references_hidden_state(model_type: str) -> None:
    theirs, model = both(model_type)
    expected = theirs(ids(2, LENGTH), output_hidden_states=True).hidden_states
    with model.record("embedding.output", "layers.*.output", "final_norm.output") as seen:
        model(ids(2, LENGTH))
    ours = [seen["embedding.output"], *(seen[f"layers.{i}.output"] for i in range(len(model.n.layers) - 1))]
    assert all(torch.equal(a, b) for a, b in zip(ours, expected[:-1], strict=True))
    assert torch.equal(seen["final_norm.output"], expected[-1])


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "bloom", "deepseek_v3", "gemma2"])
@pytest.mark.parametrize("padded", [False, True])
def test_attention_weights_are_the_references(model_type: str, padded: bool) -> None:
    theirs, model = both(model_type)
    theirs.set_attn_implementation("eager")
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :3] = 0 if padded else 1
    expected = theirs(ids(2, LENGTH), attention_mask=mask, output_attentions=True).attentions
    with model.record("layers.*.attention.weights", "layers.*.attention.scores") as seen:
        model(ids(2, LENGTH), attention_mask=mask)
    real = mask[:, None, :, None].bool()
    for index, weights in enumerate(expected):
        found = seen[f"layers.{index}.attention.weights"]
        torch.testing.assert_close(found * real, weights * real, rtol=1e-4, atol=1e-5)
        scores = seen[f"layers.{index}.attention.scores"]
        torch.testing.assert_close(torch.softmax(scores, -1).nan_to_num() * real, weights * real, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["scores", "weights"])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt_oss", "bloom", "gemma2", "deepseek_v4", "hy_v3"])
def test_looking_at_attention_changes_less_than_a_kernel_does(model_type: str, side: str) -> None:
    """Fused kernels are written out for it; in steps grouped heads lie otherwise, and come back in order."""
    theirs, model = both(model_type)
    before, floor = model(ids(2, LENGTH)).logits, floor_of(theirs, model.n, length=2 * LENGTH)
    cache = model.new_cache()
    with model.record(f"layers.0.attention.{side}") as seen:
        whole = model(ids(2, LENGTH)).logits
        steps = [model(piece, cache=cache).logits for piece in ids(2, LENGTH).split([LENGTH - 2, 1, 1], dim=1)]
    assert (whole - before).abs().max() <= floor and (torch.cat(steps, dim=1) - before).abs().max() <= floor
    first, *_, last = seen.calls[f"layers.0.attention.{side}"]
    heads = next(branch.part for name, branch in model.n.layers[0].all_branches() if name == "attention").heads
    assert first.shape[:3] == (2, heads, LENGTH) and last.shape[:3] == (2, heads, 1)
    if side == "weights":
        torch.testing.assert_close(first[:, :, -1:], last, rtol=1e-3, atol=1e-4)


def test_a_mask_of_numbers_is_added() -> None:
    """What a caller gives ready-made, 0 and the lowest number, hides what the causal flag does."""
    _, model = both("llama")
    future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    ready = torch.zeros(LENGTH, LENGTH).masked_fill(future, torch.finfo(torch.float32).min).expand(2, 1, -1, -1)
    found = []
    for mask in (None, ready):
        with model.record("layers.*.attention.weights") as seen:
            model(ids(2, LENGTH), attention_mask=mask)
        found.append(seen["layers.1.attention.weights"])
    assert not found[0][..., future].any()
    torch.testing.assert_close(*found)


def test_an_intervention_is_what_the_change_says() -> None:
    _, model = both("llama")
    tokens = ids(2, LENGTH)
    before = model(tokens).logits
    with model.intervene("layers.1.attention", torch.zeros_like), model.record("layers.1.attention") as seen:
        ablated = model(tokens).logits
    assert not bool(seen["layers.1.attention.output"].any()) and not torch.equal(ablated, before)
    silenced = universal(reference("llama").eval()).requires_grad_(False)
    silenced.layers[1].attention.output.weight.zero_()
    torch.testing.assert_close(ablated, silenced(tokens).logits)
    with model.intervene("layers.0.output", lambda value: None):
        assert torch.equal(model(tokens).logits, before)
    assert torch.equal(model(tokens).logits, before)


def test_a_run_is_patched_into_another() -> None:
    """What one text wrote into the residual, read by the layers behind it: they go on as with that text."""
    _, model = both("qwen3")
    with model.record("layers.1.output") as seen:
        expected = model(ids(2, LENGTH)).logits
    other = ids(2, LENGTH).flip(1)
    with model.intervene("layers.1.output", lambda _: seen["layers.1.output"]):
        assert torch.equal(model(other).logits, expected)


def test_attention_can_be_turned_off_by_head() -> None:
    _, model = both("llama")

    def first_token_only(weights: Tensor) -> Tensor:
        changed = torch.zeros_like(weights)
        changed[..., 0] = 1.0
        return changed

    with model.intervene("layers.*.attention.weights", first_token_only):
        same = ids(1, LENGTH).clone()
        same[0, 1:-1] = (same[0, 1:-1] + 1) % 97
        assert torch.equal(model(ids(1, LENGTH)).logits[:, -1], model(same).logits[:, -1])


def test_gradients_reach_a_point() -> None:
    model = universal(reference("llama").eval())
    with model.record("layers.0.output") as seen:
        logits = model(ids(1, LENGTH)).logits
    (gradient,) = torch.autograd.grad(logits.sum(), seen["layers.0.output"])
    assert bool(gradient.any())


def test_all_hooks_are_gone_behind_the_block_even_after_an_error() -> None:
    _, model = both("llama")

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("on purpose")

    for point in ("layers.0.attention.weights", "layers.0.output", "head.input"):
        with pytest.raises(RuntimeError, match="on purpose"), model.intervene(point, fail):
            model(ids(1, 5))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.isfinite(model(ids(1, 5)).logits).all()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("layers.9.output", r"no activation point is called 'layers.9.output' \(near: layers.1.output, layers.0"),
        ("layers.*.atention.weights", r"'layers.\*.atention.weights' \(near: layers.0.attention.weights"),
        ("layers.0.feed_forward.weights", "no activation point"),
    ],
)
def test_an_unknown_point_is_named(pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message), both("llama")[1].record(pattern):
        pass
