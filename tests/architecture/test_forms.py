"""Every form of attention: a new n, a model that runs, and one clear line where the form means nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import ids, raw
from small import attention, layer, small

from nexus_universal import ArchitectureParameter, UniversalTransformer, forms
from nexus_universal.architecture.differential import Differential
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.position import Alibi, Norm
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK

Form = Callable[..., ArchitectureParameter]

FORMS: dict[str, tuple[Form, dict[str, Any], dict[str, Any]]] = {
    "flash": (forms.flash, {}, {"kernel": "sdpa"}),
    "grouped query": (forms.grouped_query, {"kv_heads": 2}, {"kv_heads": 2}),
    "multi query": (forms.multi_query, {}, {"kv_heads": 1}),
    "sliding window": (forms.sliding_window, {"window": 6}, {"window": 6}),
    "block-sparse": (
        forms.sparse,
        {"pattern": BlockSparse(block=4)},
        {"sparsity": BlockSparse(block=4)},
    ),
    "strided": (
        forms.sparse,
        {"pattern": Strided(stride=4, local=2)},
        {"sparsity": Strided(stride=4, local=2)},
    ),
    "top-k": (forms.sparse, {"pattern": TopK(keys=3)}, {"sparsity": TopK(keys=3)}),
}
every_form = pytest.mark.parametrize("name", FORMS)


def n_of(model_type: str, **changes: Any) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw(model_type, **changes))


def multi_head() -> ArchitectureParameter:
    """Four heads of keys and values, and attention written out: what every form changes."""
    return small(*3 * (layer(attention(kv_heads=4, kernel="eager")),))


def mixers(n: ArchitectureParameter) -> list[Any]:
    return [b.part for each in n.layers for _, b in each.all_branches() if b.part.role == "mixer"]


@every_form
def test_a_form_is_a_new_n_that_differs_in_nothing_else(name: str) -> None:
    form, arguments, fields = FORMS[name]
    n = multi_head()
    formed = form(n, **arguments)
    assert n == multi_head() and formed.validate() is formed
    assert {difference.path for difference in n.diff(formed)} >= {f"attention.{field}" for field in fields} - {
        "attention.sparsity"
    }
    for before, after in zip(mixers(n), mixers(formed), strict=True):
        changed = {field for field in Attention.__slots__ if getattr(before, field) != getattr(after, field)}
        assert changed == set(fields) and all(getattr(after, field) == value for field, value in fields.items())
    assert ArchitectureParameter.from_json(formed.to_json()) == formed


@every_form
def test_a_form_is_put_on_chosen_layers_only(name: str) -> None:
    form, arguments, fields = FORMS[name]
    formed = form(multi_head(), layers=[0, 2], **arguments)
    has = [all(getattr(mixer, field) == value for field, value in fields.items()) for mixer in mixers(formed)]
    assert has == [True, False, True]


@every_form
def test_a_model_of_that_form_runs_steps_and_learns(name: str) -> None:
    form, arguments, _ = FORMS[name]
    n = form(multi_head(), **arguments)
    model = UniversalTransformer(n)
    logits = model(ids(2, 17)).logits
    assert logits.shape == (2, 17, 97) and bool(torch.isfinite(logits).all())
    logits.square().mean().backward()
    assert all(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters())
    with torch.no_grad():
        cache = model.new_cache()
        pieces = [model(piece, cache=cache).logits for piece in ids(2, 17).split([11, 1, 5], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), logits.detach(), rtol=1e-4, atol=1e-5)


def test_flash_is_the_same_function() -> None:
    n = multi_head()
    written_out, fused = UniversalTransformer(n), UniversalTransformer(forms.flash(n))
    fused.load_state_dict(written_out.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(fused(ids(2, 30)).logits, written_out(ids(2, 30)).logits, rtol=1e-4, atol=1e-6)


def test_shared_heads_shrink_cache_and_weights_as_they_should() -> None:
    n = multi_head()
    for kv_heads in (4, 2, 1):
        count, full = forms.grouped_query(n, kv_heads).count(context=50), n.count(context=50)
        assert count.cache_bytes_per_token * 4 == full.cache_bytes_per_token * kv_heads
        assert full.parameters - count.parameters == 3 * 2 * (4 - kv_heads) * 8 * 24
    assert forms.multi_query(n) == forms.grouped_query(n, 1)


@pytest.mark.parametrize("window", [1, 6, 30])
def test_a_window_bounds_what_is_remembered(window: int) -> None:
    n = forms.sliding_window(multi_head(), window)
    count = n.count(context=1000)
    assert count.cache_bytes_per_token == 0 and count.fixed_state_bytes == 3 * (window - 1) * 2 * 4 * 8 * 4
    assert count.flops_per_token < multi_head().count(context=1000).flops_per_token
    cache, model = UniversalTransformer(n).new_cache(), UniversalTransformer(n)
    with torch.no_grad():
        model(ids(1, 40), cache=cache)
    assert cache.nbytes == count.fixed_state_bytes


def test_a_sliding_window_takes_the_place_of_chunks_and_of_keeping_all() -> None:
    chunked = small(layer(attention(window=8, chunked=True)), layer(attention(window=8, keeps="all")))
    assert [(mixer.window, mixer.chunked, mixer.keeps) for mixer in mixers(forms.sliding_window(chunked, 4))] == [
        (4, False, "window")
    ] * 2


@pytest.mark.parametrize("model_type", ["glm4_moe_lite", "deepseek_v3", "zaya"])
def test_a_window_is_for_other_softmax_attention_too(model_type: str) -> None:
    n = forms.sliding_window(n_of(model_type), 5)
    assert {mixer.window for mixer in mixers(n) if hasattr(mixer, "window")} == {5}
    with torch.no_grad():
        assert bool(torch.isfinite(UniversalTransformer(n)(ids(1, 12)).logits).all())


def test_layers_of_other_kinds_are_left_alone_and_nested_ones_are_found() -> None:
    hybrid = n_of("qwen3_next")
    formed = forms.multi_query(hybrid)
    assert [type(mixer) for mixer in mixers(formed)] == [type(mixer) for mixer in mixers(hybrid)]
    assert {mixer.kv_heads for mixer in mixers(formed) if isinstance(mixer, Attention)} == {1}
    nested = forms.sliding_window(n_of("zamba2"), 7)
    assert {mixer.window for mixer in mixers(nested) if isinstance(mixer, Attention)} == {7}


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "gpt2", "phi3", "falcon", "gemma3n_text"])
def test_published_models_take_the_forms(model_type: str) -> None:
    """Packed projections, repeated windows and keys that later layers reuse included."""
    for formed in (
        forms.multi_query(n_of(model_type)),
        forms.sliding_window(n_of(model_type), 5),
        forms.sparse(n_of(model_type), TopK(keys=3)),
    ):
        with torch.no_grad():
            assert bool(torch.isfinite(UniversalTransformer(formed)(ids(1, 12)).logits).all())


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "no attention": (lambda: forms.flash(n_of("mamba")), ("flash: no layer has Attention", "ChannelStateSpace")),
    "none to group": (
        lambda: forms.grouped_query(n_of("deepseek_v3"), 2),
        ("grouped_query: no layer has Attention, but LatentAttention",),
    ),
    "no divisor": (
        lambda: forms.grouped_query(multi_head(), 3),
        ("grouped_query: layers.0.attention.kv_heads = 3 must divide heads = 4",),
    ),
    "more than heads": (lambda: forms.grouped_query(multi_head(), 8), ("kv_heads = 8 must divide heads = 4",)),
    "no heads": (lambda: forms.grouped_query(multi_head(), 0), ("kv_heads = 0 must be at least 1",)),
    "pairs": (
        lambda: forms.multi_query(small(layer(attention(differential=Differential(norm=Norm(kind="rms", eps=1e-5)))))),
        ("multi_query:", "kv_heads = 1 must be even where differential pairs heads"),
    ),
    "capped": (
        lambda: forms.flash(n_of("gemma2")),
        ("flash: layers.0.attention.kernel = 'sdpa' must be 'eager' where softcap or sinks are set",),
    ),
    "sinks": (lambda: forms.flash(n_of("gpt_oss")), ("flash:", "the fused kernel has neither")),
    "latent sinks": (
        lambda: forms.flash(n_of("glm4_moe_lite").replace("layers.*.mixer.sinks", True)),
        ("flash: LatentAttention.sinks = True must be False",),
    ),
    "wide biases": (
        lambda: forms.flash(small(layer(attention(kernel="eager", alibi=Alibi(rounding="none"), rope=None)))),
        ("flash:", "alibi.rounding = 'none' must not be 'none' for a fused kernel"),
    ),
    "no window": (lambda: forms.sliding_window(multi_head(), 0), ("sliding_window:", "window = 0 must be at least 1")),
    "indexed": (
        lambda: forms.sliding_window(n_of("deepseek_v32"), 8),
        ("sliding_window:", "window = 8 must be None where an indexer chooses"),
    ),
    "windowed": (
        lambda: forms.sparse(n_of("gemma3_text"), Strided(stride=4, local=4)),
        ("sparse:", "must be None or TopK(…) where there is a window"),
    ),
    "chosen": (
        lambda: forms.sparse(n_of("doge"), TopK(keys=3)),
        ("sparse:", "must be None beside an indexer or a dynamic_mask"),
    ),
    "no such layer": (
        lambda: forms.flash(multi_head(), layers=[3]),
        ("flash: layers names 3: must be of 0 … 2",),
    ),
    "another kind": (
        lambda: forms.multi_query(n_of("qwen3_next"), layers=[0]),
        ("multi_query: layers.0 has GatedDeltaRule: needs Attention",),
    ),
    "no layers": (lambda: forms.flash(multi_head(), layers=[]), ("flash: no layer",)),
    "one of those that share": (
        lambda: forms.sliding_window(n_of("zamba2"), 7, layers=[forms_first("zamba2")]),
        ("sliding_window:", "shared parts must be equal"),
    ),
}


def forms_first(model_type: str) -> int:
    """The first layer of a type that has softmax attention."""
    layers = n_of(model_type).layers
    return next(
        i for i, each in enumerate(layers) if any(isinstance(b.part, Attention) for _, b in each.all_branches())
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_nothing_is_refused_in_one_line(name: str) -> None:
    call, pieces = REFUSED[name]
    with pytest.raises(InvalidArchitecture) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for piece in pieces:
        assert piece in message, message


def test_latent_attention_is_fused_already() -> None:
    n = n_of("deepseek_v3")
    assert forms.flash(n) == n and any(isinstance(mixer, LatentAttention) for mixer in mixers(n))
