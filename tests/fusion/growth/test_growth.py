"""Growth keeps the function, to the tier it declares; what does not keep it is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion import growth
from nexus_universal.fusion.growth.rebuild import grown, parts_of
from nexus_universal.fusion.growth.residual import padded, rescaled, residual_norms
from nexus_universal.fusion.retention import REAL_TOLERANCE, RetentionError, Tier
from tests.helpers import ids, pair

Grow = Callable[[UniversalTransformer], UniversalTransformer]

WIDER: Grow = lambda model: growth.widen_feed_forward(model, 256)  # noqa: E731
HEADS: Grow = lambda model: growth.add_heads(model, 8)  # noqa: E731
LAYERS: Grow = lambda model: growth.add_layers(model, 2)  # noqa: E731
WITHIN: Grow = lambda model: growth.add_layers(model, 1, at=1)  # noqa: E731
TWICE: Grow = lambda model: growth.widen(model, 2 * model.n.d_hidden)  # noqa: E731
ODD: Grow = lambda model: growth.widen(model, model.n.d_hidden + 17)  # noqa: E731
EXPERTS: Grow = lambda model: growth.add_experts(model, 3)  # noqa: E731
WIDE_EXPERTS: Grow = lambda model: growth.widen_feed_forward(model, 96, of="experts")  # noqa: E731
WIDE_SHARED: Grow = lambda model: growth.widen_feed_forward(model, 40, of="shared")  # noqa: E731

RMS = ("qwen3", "llama", "gemma3_text", "glm4_moe_lite", "gemma2", "phi3")
DENSE = ("qwen3", "llama", "gemma3_text", "gpt2", "gpt_neox", "glm4_moe_lite", "phi3", "falcon", "cohere")
CASES: list[tuple[str, str, Grow]] = [
    *(("feed_forward", name, WIDER) for name in DENSE),
    *(("heads", name, HEADS) for name in ("qwen3", "llama", "gpt2", "gpt_neox", "glm4_moe_lite", "phi3", "gpt_oss")),
    *(("layers", name, LAYERS) for name in (*DENSE, "qwen3_moe", "qwen3_next")),
    *(("within", name, WITHIN) for name in ("qwen3", "glm4_moe_lite", "gpt2")),
    *(("twice", name, TWICE) for name in (*RMS, "gpt2", "gpt_neox", "cohere", "qwen3_moe")),
    *(("odd", name, ODD) for name in RMS),
    *(("experts", name, EXPERTS) for name in ("glm4_moe_lite", "qwen3_moe", "ernie4_5_moe", "mixtral", "gpt_oss")),
    *(("wide_experts", name, WIDE_EXPERTS) for name in ("glm4_moe_lite", "qwen3_moe", "mixtral", "gpt_oss")),
    ("wide_shared", "glm4_moe_lite", WIDE_SHARED),
]


def logits(model: UniversalTransformer) -> Tensor:
    with torch.no_grad():
        return model(ids(2, 30)).logits


def apart(model: UniversalTransformer, other: UniversalTransformer) -> float:
    return float((logits(model) - logits(other)).abs().max())


@pytest.mark.parametrize(("kind", "name", "grow"), CASES, ids=[f"{kind}-{name}" for kind, name, _ in CASES])
def test_a_grown_model_computes_the_same(kind: str, name: str, grow: Grow) -> None:
    model = pair(name)[1]
    before = {slot: tensor.clone() for slot, tensor in slots(model).items()}
    larger = grow(model)
    if kind in ("layers", "within"):
        assert torch.equal(logits(larger), logits(model))
    assert apart(larger, model) <= REAL_TOLERANCE
    assert larger.n.count().parameters > model.n.count().parameters
    assert larger.n.distance(model.n) > 0 and ArchitectureParameter.from_json(larger.n.to_json()) == larger.n
    assert sum(tensor.numel() for tensor in larger.parameters()) == larger.n.count().parameters
    assert all(torch.equal(tensor, before[slot]) for slot, tensor in slots(model).items()), "the old model was changed"


@pytest.mark.parametrize(
    ("name", "grow"),
    [
        ("qwen3", WIDER),
        ("qwen3", HEADS),
        ("qwen3", LAYERS),
        ("qwen3", TWICE),
        ("gpt2", TWICE),
        ("glm4_moe_lite", WIDER),
        ("glm4_moe_lite", HEADS),
    ],
)
def test_every_new_weight_wakes_up_by_the_second_step(name: str, grow: Grow) -> None:
    """New weights that never receive a gradient would be dead for ever; see FUSION 1.3."""
    larger, old = grow(pair(name)[1]).train(), {slot: tensor.shape for slot, tensor in slots(pair(name)[1]).items()}
    matrices = {slot: tensor for slot, tensor in larger.named_parameters() if tensor.dim() > 1}
    silent = {slot: torch.ones_like(tensor, dtype=torch.bool) for slot, tensor in matrices.items()}
    optimiser = torch.optim.SGD(larger.parameters(), lr=1e-2)
    for seed in (1, 2, 3):
        batch = ids(4, 24, seed=seed)
        out = larger(batch).logits
        torch.nn.functional.cross_entropy(out[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).backward()
        for slot, tensor in matrices.items():
            assert tensor.grad is not None and tensor.grad.isfinite().all(), slot
            silent[slot] &= tensor.grad == 0
        optimiser.step()
        optimiser.zero_grad()
    for slot, still in silent.items():
        if slot in old:
            still[tuple(slice(0, size) for size in old[slot])] = False
        if not slot.startswith(("embedding.", "head.")):  # rows of tokens that did not occur
            assert still.float().mean() < 0.01, slot


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "glm4_moe_lite"])
def test_a_cached_step_agrees(name: str) -> None:
    larger = growth.add_layers(growth.add_heads(growth.widen_feed_forward(pair(name)[1], 256), 4), 1)
    batch, cache = ids(1, 12), larger.new_cache()
    with torch.no_grad():
        larger(batch[:, :11], cache=cache)
        step = larger(batch[:, 11:], cache=cache).logits
    torch.testing.assert_close(step[:, -1], pair(name)[1](batch).logits[:, -1], atol=1e-4, rtol=0)


def test_growth_is_drawn_by_its_seed() -> None:
    model = pair("qwen3")[1]
    one, same, other = (slots(growth.widen_feed_forward(model, 96, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not torch.equal(one["layers.0.feed_forward.up.weight"], other["layers.0.feed_forward.up.weight"])


def test_a_model_in_half_precision_stays_in_it() -> None:
    half = UniversalTransformer.from_pretrained(Path(__file__).parents[2] / "data" / "glm4_moe_lite_tiny")
    larger = growth.add_layers(growth.add_experts(growth.widen_feed_forward(half, 300), 2), 1)
    kept = {name: tensor.dtype for name, tensor in slots(half).items()}
    assert larger.dtype == torch.bfloat16
    assert {name: slots(larger)[name].dtype for name in kept} == kept


def test_a_grown_model_comes_back_from_disk(tmp_path: Path) -> None:
    larger = growth.widen(pair("qwen3")[1], 64)
    larger.save_pretrained(tmp_path / "grown", format="nexus")
    back = UniversalTransformer.from_pretrained(tmp_path / "grown")
    assert back.n == larger.n and torch.equal(logits(back), logits(larger))


def _without_eps(n: ArchitectureParameter, eps_of: ArchitectureParameter) -> ArchitectureParameter:
    """The wider n, with the eps of the narrow one."""
    return replace(
        n,
        layers=tuple(
            replace(
                layer,
                steps=tuple(replace(step, norm=old.norm) for step, old in zip(layer.steps, was.steps, strict=True)),
            )
            for layer, was in zip(n.layers, eps_of.layers, strict=True)
        ),
        final_norm=eps_of.final_norm,
    )


def test_gain_and_eps_are_both_needed() -> None:
    """Counterexamples: the eps left as it was, and neither changed. Small embeddings, so that eps is felt."""
    model = pair("llama")[1]
    small = grown(model, model.n, seed=0)
    with torch.no_grad():
        slots(small)["embedding.tokens.weight"].mul_(0.01)
    n = rescaled(small.n, 96)
    gain = (small.n.d_hidden / 96) ** 0.5
    right = apart(small, padded(small, n, gain=gain, seed=0))
    gain_only = apart(small, padded(small, _without_eps(n, small.n), gain=gain, seed=0))
    neither = apart(small, padded(small, _without_eps(n, small.n), gain=1.0, seed=0))
    assert right <= 2e-5 < REAL_TOLERANCE < gain_only < neither and neither > 0.5
    with pytest.raises(RetentionError, match="widen promises R2, but d48"):
        growth.growth_certificate("widen", Tier.REAL, small, padded(small, n, gain=1.0, seed=0))


def test_doubled_layers_are_another_function() -> None:
    """What SOLAR and frankenmerges begin with (arXiv 2312.15166)."""
    model = pair("llama")[1]
    depth = len(model.n.layers)
    n = replace(model.n, layers=2 * model.n.layers)

    def again(name: str) -> str:
        head, _, rest = name.removeprefix("layers.").partition(".")
        return f"layers.{int(head) % depth}.{rest}" if name.startswith("layers.") else name

    assert apart(model, grown(model, n, seed=0, renamed=again)) > 1
    with pytest.raises(RetentionError, match="doubled promises R2"):
        growth.growth_certificate("doubled", Tier.REAL, model, grown(model, n, seed=0, renamed=again))


def test_zeros_move_a_layer_norms_mean() -> None:
    model = pair("gpt2")[1]
    n = rescaled(model.n, 96)
    assert apart(model, padded(model, n, gain=0.5**0.5, seed=0)) > 0.5
    with pytest.raises(InputError, match=r"attention_norm is a layer norm, whose mean sees zeros: .* multiple of 48"):
        growth.widen(model, 90)


def test_the_residual_norms_are_all_that_the_modules_hold() -> None:
    for name in ("qwen3", "gemma3_text", "cohere", "gpt2", "olmo2"):
        model = pair(name)[1]
        held = {
            slot.removesuffix(".weight") for slot, tensor in slots(model).items() if tensor.shape == (model.n.d_hidden,)
        }
        held = {path for path in held if "norm" in path.rpartition(".")[2] and not path.endswith(".bias")}
        assert {path for path, _ in residual_norms(model.n)} == {path for path in held if ".attention." not in path}


REFUSED: list[tuple[str, Grow, str]] = [
    ("qwen3", lambda model: growth.add_heads(model, 3), "3 heads cannot be shared out among 2 key/value heads"),
    ("qwen3", lambda model: growth.add_heads(model, 0), "count = 0 must be at least 1"),
    ("bloom", lambda model: growth.add_heads(model, 4), r"attention.alibi = .*how many heads"),
    ("olmo2", lambda model: growth.add_heads(model, 4), r"qk_norm.over = 'width'"),
    ("mamba", lambda model: growth.add_heads(model, 4), "no softmax attention"),
    ("mamba", lambda model: growth.widen(model, 96), "is a "),
    ("mamba", lambda model: growth.widen_feed_forward(model, 96), "no feed-forward of the kind 'dense'"),
    (
        "qwen3",
        lambda model: growth.widen_feed_forward(model, 96, of="experts"),
        "no feed-forward of the kind 'experts'",
    ),
    ("qwen3", lambda model: growth.widen_feed_forward(model, 40), r"width = 80: growth to 40 would shrink it"),
    ("bitnet", lambda model: growth.widen_feed_forward(model, 512), "inner_norm = "),
    ("gemma3n_text", lambda model: growth.add_layers(model, 1), "shares|streams|one residual|passed|several"),
    ("bert", lambda model: growth.add_layers(model, 1), r"would not leave x as it is"),
    ("qwen3", lambda model: growth.add_layers(model, 1, at=0), r"at = 0 must lie in \[1, 2\]"),
    ("diffllama", lambda model: growth.add_layers(model, 1, at=1), "the layer's index"),
    ("qwen3", lambda model: growth.widen(model, 48), "d_hidden = 48 must be more than this model's 48"),
    ("qwen3", lambda model: growth.add_experts(model, 2), "no experts"),
    ("deepseek_v3", lambda model: growth.add_experts(model, 2), r"router.groups = "),
    ("zamba2", lambda model: growth.widen_feed_forward(model, 512), "shares its weights"),
]


@pytest.mark.parametrize(("name", "grow", "said"), REFUSED, ids=[f"{at}-{case[0]}" for at, case in enumerate(REFUSED)])
def test_what_would_change_the_function_is_refused_by_name(name: str, grow: Grow, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        grow(pair(name)[1])
    assert "\n" not in str(error.value)


def test_sleeping_experts_are_never_chosen_and_wake_with_their_bias() -> None:
    model = pair("qwen3_moe")[1]
    larger = growth.add_experts(model, 3)
    with torch.no_grad():
        for path, _ in parts_of(larger.n):
            if path.endswith("feed_forward"):
                slots(larger)[f"{path}.router.bias"].zero_()
    assert apart(model, larger) > 1e-3
