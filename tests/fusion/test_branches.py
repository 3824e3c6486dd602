"""A fused model is an n like any other, and each of its branches computes what it computed alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.errors import InputError, InvalidArchitecture, UnsupportedConfig
from nexus_universal.architecture.fusion import fused
from nexus_universal.architecture.memory import Task, layouts
from nexus_universal.architecture.parameter import Origin
from nexus_universal.architecture.stages import pipeline_stages
from nexus_universal.architecture.tensor_parallel import tensor_parallel_plan
from nexus_universal.cache.kinds import CacheKind
from nexus_universal.fusion.branches import extract_branch, join_models
from nexus_universal.fusion.growth import add_layers
from nexus_universal.fusion.retention import Tier, certified, evidence_of

DATA = Path(__file__).parents[1] / "data"
SOURCES = {"prose": "qwen3_tiny", "window": "gemma3_tiny", "experts": "glm4_moe_lite_tiny"}
Models = dict[str, UniversalTransformer]
IDS = torch.randint(3, 1024, (2, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def models() -> Models:
    return {name: UniversalTransformer.from_pretrained(DATA / source) for name, source in SOURCES.items()}


@pytest.fixture(scope="module")
def routed(models: Models) -> UniversalTransformer:
    return join_models(**models)


@pytest.mark.parametrize("name", SOURCES)
@torch.no_grad()
def test_a_routed_branch_has_its_own_bits(name: str, models: Models, routed: UniversalTransformer) -> None:
    alone = models[name]
    evidence = evidence_of(name, alone(IDS).logits, routed(IDS, capability=name).logits)
    assert certified("join", Tier.BITS, evidence).tier is Tier.BITS
    cache, own = routed.new_cache(capability=name), alone.new_cache()
    for piece in IDS.split((20, 27, 1), dim=1):
        assert torch.equal(
            routed(piece, cache=cache, capability=name).logits,
            alone(piece, cache=own).logits,
        )
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(routed.generate(IDS, capability=name, **settings), alone.generate(IDS, **settings))
    assert routed.branch(name).n == alone.n


@torch.no_grad()
def test_the_capability_decides(models: Models, routed: UniversalTransformer) -> None:
    assert torch.equal(routed(IDS).logits, models["prose"](IDS).logits)
    assert not torch.equal(routed(IDS).logits, routed(IDS, capability="window").logits)
    assert torch.equal(
        routed.generate(IDS, max_new_tokens=4, do_sample=False),
        routed.generate(IDS, capability="prose", max_new_tokens=4, do_sample=False),
    )


@pytest.mark.parametrize("model", ["routed", "alone"])
def test_an_unknown_capability_is_refused(model: str, models: Models, routed: UniversalTransformer) -> None:
    asked = routed if model == "routed" else models["prose"]
    known = "prose, window, experts" if model == "routed" else "none: this model is not fused"
    for call in (asked.new_cache, asked.generate, asked):
        arguments = () if call == asked.new_cache else (IDS,)
        with pytest.raises(InputError, match=f"capability 'tts' \\(known: {known}\\)"):
            call(*arguments, capability="tts")


@torch.no_grad()
def test_a_direct_sum_has_every_branchs_logits_side_by_side(models: Models) -> None:
    whole = join_models("all", **models)
    each = torch.stack([IDS, IDS.flip(0), IDS.flip(1)], dim=-1)
    for ids in (IDS, each):
        by_branch = ids.unbind(-1) if ids.dim() == 3 else (ids,) * 3
        wanted = [model(one).logits for model, one in zip(models.values(), by_branch, strict=True)]
        parts = whole(ids).logits.split([logits.shape[-1] for logits in wanted], dim=-1)
        assert all(torch.equal(part, logits) for part, logits in zip(parts, wanted, strict=True))
        cache, caches = whole.new_cache(), [model.new_cache() for model in models.values()]
        for start, end in ((0, 30), (30, 47), (47, 48)):
            logits = whole(ids[:, start:end], cache=cache, logits_to_keep=1).logits
            steps = [
                model(one[:, start:end], cache=own, logits_to_keep=1).logits
                for model, one, own in zip(models.values(), by_branch, caches, strict=True)
            ]
            assert torch.equal(logits, torch.cat([step.to(logits.dtype) for step in steps], dim=-1))
        assert cache.length == 48 and cache.nbytes == sum(own.nbytes for own in caches)
    assert torch.equal(whole(IDS, capability="prose").logits, models["prose"](IDS).logits)
    with pytest.raises(InputError, match="name the capability that goes on: prose, window, experts"):
        whole.generate(IDS)


@torch.no_grad()
def test_a_mixture_weighs_probabilities(models: Models) -> None:
    pair = {name: models[name] for name in ("prose", "window")}
    whole = join_models("mixture", weights=(0.25, 0.75), **pair)
    wanted = 0.25 * pair["prose"](IDS).logits.softmax(-1) + 0.75 * pair["window"](IDS).logits.softmax(-1)
    torch.testing.assert_close(whole(IDS).logits.exp(), wanted, rtol=1e-5, atol=1e-7)
    steps = whole.generate(IDS, max_new_tokens=3, do_sample=False)
    assert torch.equal(steps[:, 48], wanted[:, -1].argmax(-1))
    equal = join_models("mixture", **pair)
    half = torch.stack([model(IDS).logits.softmax(-1) for model in pair.values()]).mean(0)
    torch.testing.assert_close(equal(IDS).logits.exp(), half, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(models: Models, routed: UniversalTransformer, tmp_path: Path) -> None:
    routed.save_pretrained(tmp_path / "all", format="nexus")
    again = UniversalTransformer.from_pretrained(tmp_path / "all")
    assert again.n == routed.n and again.n.hash == routed.n.hash
    for name, alone in models.items():
        assert torch.equal(again(IDS, capability=name).logits, alone(IDS).logits)
    with pytest.raises(UnsupportedConfig, match="save it as 'nexus'"):
        routed.save_pretrained(tmp_path / "published")


@torch.no_grad()
def test_a_branch_taken_out_is_the_model_that_was_put_in(
    models: Models, routed: UniversalTransformer, tmp_path: Path
) -> None:
    for name, alone in models.items():
        out = extract_branch(routed, name)
        assert out.n == alone.n and torch.equal(out(IDS).logits, alone(IDS).logits)
        assert out.settings == routed.branch(name).settings == alone.settings
        assert (out.passed_over, out.carried) == (alone.passed_over, alone.carried)
        out.save_pretrained(tmp_path / name)
        again = UniversalTransformer.from_pretrained(tmp_path / name)
        assert torch.equal(again(IDS).logits, alone(IDS).logits)


def test_joining_copies_nothing(models: Models, routed: UniversalTransformer) -> None:
    held = {tensor.data_ptr() for tensor in routed.parameters()}
    assert held == {tensor.data_ptr() for model in models.values() for tensor in model.parameters()}


def test_the_counts_of_a_route_and_of_a_sum(models: Models) -> None:
    counts = [model.n.count(context=64, dtype="float32") for model in models.values()]
    for join, joined in (("route", max), ("all", sum)):
        found = fused(join, **{name: model.n for name, model in models.items()}).count(context=64, dtype="float32")
        assert found.parameters == sum(count.parameters for count in counts)
        assert found.flops_per_token == joined(count.flops_per_token for count in counts)
        assert found.cache_bytes_per_token == joined(count.cache_bytes_per_token for count in counts)


def test_n_says_what_it_is(models: Models) -> None:
    n = fused(**{name: model.n for name, model in models.items()})
    assert list(n.branches) == list(SOURCES) and n.join == "route"
    assert models["prose"].n.branches == {} and models["prose"].n.join is None
    assert ArchitectureParameter.from_json(n.to_json()) == n
    assert n.signature.startswith("route of prose (d96 v1024 tied") and n.signature.endswith(n.hash)
    assert "experts · Layer" in n.formula().unicode and "Join" in n.formula().unicode
    changed = n.replace("fusion.members.0.n.layers.*.mixer.heads", 2)
    assert {str(change).split(":")[0] for change in n.diff(changed)} == {
        f"fusion.members.0.n.layers.{index}.attention.heads" for index in range(6)
    }
    flat = fused(more=fused(**{name: models[name].n for name in ("prose", "window")}), experts=models["experts"].n)
    assert flat == n
    joined, other = (fused(join, **{name: model.n for name, model in models.items()}) for join in ("all", "mixture"))
    assert n.distance(joined) == joined.distance(other) == 1 and n.distance(n) == 0
    assert n.distance(models["prose"].n) > n.distance(changed) == 6
    said = {name: dataclasses.replace(model.n, text=Text(), origin=Origin()) for name, model in models.items()}
    assert fused(**said).hash == n.hash != changed.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace("fusion.name", "2b"), "must be an identifier"),
        (lambda n: n.replace("fusion.name", "b"), "must have different names, not b, b"),
        (lambda n: n.replace("fusion.members", ()), "must not be empty"),
        (lambda n: n.replace("fusion.weights", (0.5, 0.5)), "must be None where join is not 'mixture'"),
        *(
            (lambda n, w=w: n.replace("fusion.join", "mixture").replace("fusion.weights", w), "2 positive .* sum is 1")
            for w in ((0.5, 0.6), (1.5, -0.5), (1.0,), (0.5, 0.25, 0.25))
        ),
        (lambda n: n.replace("fusion.members.0.n", n), "fusion must be None|fusion = .* must be None"),
        (lambda n: n.replace("fusion.members.0.n", n.head), "must be an ArchitectureParameter"),
        (lambda n: n.replace("fusion.members.0.n.layers.0.mixer.kv_heads", 3), "must divide heads"),
        (lambda n: n.replace("fusion.members.0.n.registers", (n.replace,)), "registers"),
        (
            lambda n: n.replace("fusion.members.0.n.layers.0.mixer.reuse", "it"),
            r"fusion\.members\.0\.n\.layers\.0\.attention\.reuse = 'it' must be emitted",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(change: Callable[..., object], message: str, models: Models) -> None:
    with pytest.raises(InvalidArchitecture, match=message):
        change(fused(a=models["prose"].n, b=models["window"].n))


def test_a_mixture_is_over_one_vocabulary(models: Models) -> None:
    other = models["prose"].n.replace("embedding.vocab", 1000)
    with pytest.raises(InvalidArchitecture, match="must be 1024: a mixture is over one vocabulary"):
        fused("mixture", a=models["prose"].n, b=other)
    with pytest.raises(InvalidArchitecture, match="at least two models"):
        fused()


@pytest.mark.parametrize("kind", ["buffered", "static"])
@torch.no_grad()
def test_optimised_each_branch_is_what_it_is_optimised_alone(kind: CacheKind, models: Models) -> None:
    whole = join_models(**models).optimize(cache=kind)
    for name, source in SOURCES.items():
        alone = UniversalTransformer.from_pretrained(DATA / source).optimize(cache=kind)
        cache, own = whole.new_cache(capability=name), alone.new_cache()
        assert [type(state) for state in cache.states.values()] == [type(state) for state in own.states.values()]
        for piece in IDS.split((40, 1, 1, 6), dim=1):
            assert torch.equal(
                whole(piece, cache=cache, capability=name).logits,
                alone(piece, cache=own).logits,
            )
    with pytest.raises(InputError, match="prose was optimised"):
        join_models(prose=whole, window=models["window"])
    with pytest.raises(InputError, match="rounding is for one model alone"):
        join_models(**models).optimize(cache="int8")


def test_growth_is_for_one_model(models: Models, routed: UniversalTransformer) -> None:
    with pytest.raises(InputError, match="growth is for one model alone"):
        add_layers(routed, 1)


@pytest.mark.parametrize(
    ("what", "plan"),
    [
        ("tensor parallelism", lambda n: tensor_parallel_plan(n, 2)),
        ("a pipeline", lambda n: pipeline_stages(n, 2)),
        ("a plan", lambda n: layouts(n, Task(dtype="float32", context=8, batch=1), gpus=2)),
    ],
)
def test_what_is_planned_for_one_model_is_refused_for_several(
    what: str, plan: Callable[[ArchitectureParameter], object], models: Models
) -> None:
    with pytest.raises(InputError, match=f"{what} is for one model alone: .*\\(a, b\\)"):
        plan(fused(a=models["prose"].n, b=models["window"].n))
