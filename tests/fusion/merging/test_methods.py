"""Each method against a formula written otherwise, and the laws that all of them obey."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.merging.blocks import Block, kth_largest
from nexus_universal.fusion.merging.methods import METHODS, REQUIRED, SPELLED
from tests.fusion.merging import naive

ROUNDING = 2e-6
"""A few roundings of float32 in numbers of the order of 1."""


def tensors(count: int, *, rows: int = 6, columns: int = 5, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, columns, generator=generator) for _ in range(count)]


def merged(name: str, models: list[Tensor], base: Tensor | None = None, *, cut: int = 6, **given: Any) -> Tensor:
    """A method on whole tensors, in blocks of `cut` rows."""
    method = METHODS[name]
    stack = [
        Block(torch.stack([x[at : at + cut] for x in models]), None if base is None else base[at : at + cut])
        for at in range(0, models[0].shape[0], cut)
    ]
    per_model = {key: 1.0 if default is REQUIRED else default for key, default in method.per_model.items()}
    values = {**method.shared, **{key: [value] * len(models) for key, value in per_model.items()}, **given}
    values = {SPELLED.get(key, key): 0.5 if value is REQUIRED else value for key, value in values.items()}
    if method.draws:
        values["generator"] = torch.Generator().manual_seed(0)
    combine = method.prepare(stack, **values)
    return torch.cat([combine(block) for block in stack])


def inputs_of(name: str, *, equal: bool = False, seed: int = 0) -> tuple[list[Tensor], Tensor | None]:
    """As many models as the method takes, and a base where it has one; all the same where `equal`."""
    method = METHODS[name]
    count = method.most or max(method.least, 3)
    drawn = tensors(count + 1, seed=seed)
    if equal:
        drawn = [drawn[0]] * (count + 1)
    return drawn[:count], drawn[count] if method.base in ("required", "optional") else None


@pytest.mark.parametrize("name", METHODS)
@given(seed=st.integers(0, 10**6))
def test_merging_a_model_with_itself_changes_no_bit(name: str, seed: int) -> None:
    models, base = inputs_of(name, equal=True, seed=seed)
    assert torch.equal(merged(name, models, base), models[0])


@pytest.mark.parametrize("name", METHODS)
def test_blocks_change_nothing(name: str) -> None:
    """Statistics are those of the whole tensor, however it is cut. Draws fall otherwise, so they keep everything."""
    models, base = inputs_of(name)
    thin = {} if METHODS[name].draws or "density" not in METHODS[name].per_model else {"density": [0.4] * len(models)}
    whole = merged(name, models, base, **thin)
    for cut in (1, 4):
        assert (merged(name, models, base, cut=cut, **thin) - whole).abs().max() < ROUNDING


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if "weight" in method.per_model])
def test_all_the_weight_gives_the_model(name: str) -> None:
    models, base = inputs_of(name)
    found = merged(name, models, base, weight=[0.0, 1.0, 0.0])
    if base is None:
        assert torch.equal(found, models[1])
    else:
        assert (found - models[1]).abs().max() < ROUNDING


@pytest.mark.parametrize(("t", "place"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_an_arc_are_the_models(t: float, place: int) -> None:
    models = tensors(2)
    assert torch.equal(merged("slerp", models, t=t), models[place])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if (method.most or 3) > 2])
def test_the_order_of_models_does_not_matter(name: str) -> None:
    models, base = inputs_of(name)
    given = {"weight": [0.2, 0.3, 0.5]} if "weight" in METHODS[name].per_model else {}
    back = {"weight": [0.5, 0.3, 0.2]} if given else {}
    assert (merged(name, models, base, **given) - merged(name, models[::-1], base, **back)).abs().max() < ROUNDING


def test_linear_is_the_weighted_mean_or_sum() -> None:
    a, b = tensors(2)
    assert torch.allclose(merged("linear", [a, b], weight=[1.0, 3.0]), a / 4 + 3 * b / 4, atol=ROUNDING)
    assert torch.allclose(merged("linear", [a, b], weight=[1.0, 3.0], normalize=False), a + 3 * b, atol=4 * ROUNDING)
    with pytest.raises(InputError, match="sum to zero"):
        merged("linear", [a, b], weight=[1.0, -1.0])


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_slerp_follows_the_arc(t: float) -> None:
    a, b = tensors(2)
    close(merged("slerp", [a, b], t=t), naive.slerp(a.double().numpy(), b.double().numpy(), t))


def test_slerp_of_parallel_tensors_is_their_chord() -> None:
    [a] = tensors(1)
    assert torch.allclose(merged("slerp", [a, 3 * a], t=0.5), 2 * a, atol=ROUNDING)
    assert torch.equal(merged("slerp", [a, torch.zeros_like(a)], t=0.5), a / 2)


def test_karcher_is_the_mean_on_the_sphere() -> None:
    models = tensors(4)
    first = merged("karcher", [models[0], 3 * models[0] + models[1], models[2]], max_iter=1, tol=1e-9)
    wide = [x.double().numpy() for x in (models[0], 3 * models[0] + models[1], models[2])]
    close(first, naive.karcher(wide, steps=1))
    found = merged("karcher", models, max_iter=100, tol=1e-9)
    close(found, naive.karcher([x.double().numpy() for x in models]))
    a, b = models[:2]
    pair = merged("karcher", [a / a.norm(), b / b.norm()])
    assert torch.allclose(pair, merged("slerp", [a / a.norm(), b / b.norm()], t=0.5), atol=ROUNDING)


def test_multislerp_steps_from_the_mean_in_its_plane() -> None:
    models = [x + tensors(1, seed=9)[0] for x in tensors(3)]
    models[0] = -0.2 * models[0]  # far from the others, so that the mean is no fixed point
    weights = [0.2, 0.3, 0.5]
    found = merged("multislerp", models, weight=weights)
    close(found, naive.multislerp([x.double().numpy() for x in models], weights))


def test_multislerp_of_two_meets_in_the_middle_and_takes_differences_from_a_base() -> None:
    a, b, base = tensors(3)
    unit = [x / x.norm() for x in (a, b)]
    assert torch.allclose(merged("multislerp", unit), merged("slerp", unit, t=0.5), atol=ROUNDING)
    moved = merged("multislerp", [x + base for x in unit], base)
    assert torch.allclose(moved - base, merged("multislerp", unit), atol=ROUNDING)
    with pytest.raises(InputError, match="cancel out"):
        merged("multislerp", [a, -a])


def test_task_arithmetic_adds_differences() -> None:
    a, b, base = tensors(3)
    found = merged("task_arithmetic", [a, b], base, weight=[0.5, -2.0], **{"lambda": 3.0})
    assert torch.allclose(found, base + 3 * (0.5 * (a - base) - 2 * (b - base)), atol=20 * ROUNDING)


def test_ties_by_hand() -> None:
    """One entry each: alone, agreeing, outvoted, trimmed away."""
    base = torch.zeros(1, 4)
    a, b = torch.tensor([[4.0, 1.0, 3.0, 0.1]]), torch.tensor([[0.1, 3.0, -1.0, 0.2]])
    found = merged("ties", [a, b], base, density=[0.75, 0.75])
    assert torch.equal(found, torch.tensor([[4.0, 2.0, 3.0, 0.2]]))


@pytest.mark.parametrize("densities", [(1.0, 1.0, 1.0), (0.5, 0.3, 0.9), (0.05, 1.0, 0.2)])
def test_ties_is_the_papers(densities: tuple[float, ...]) -> None:
    *models, base = tensors(4)
    weights = [0.7, 0.5, 1.1]
    found = merged("ties", models, base, weight=weights, density=list(densities), cut=2)
    close(found, naive.ties(base.double().numpy(), [x.double().numpy() for x in models], weights, densities))


@pytest.mark.parametrize(("density", "gamma"), [(0.5, 0.2), (0.9, 0.3), (0.2, 0.0), (1.0, 0.1)])
def test_breadcrumbs_drop_both_ends(density: float, gamma: float) -> None:
    a, base = tensors(2, rows=10)
    found = merged("breadcrumbs", [a], base, density=[density], gamma=[gamma], cut=3)
    close(found, naive.breadcrumbs(base.double().numpy(), a.double().numpy(), density, gamma))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_sce_selects_weighs_and_erases(share: float) -> None:
    *models, base = tensors(4)
    found = merged("sce", models, base, select_topk=share, cut=4)
    close(found, naive.sce(base.double().numpy(), [x.double().numpy() for x in models], share))
    assert torch.equal(merged("sce", models, base, select_topk=0.0), base)


def test_model_stock_goes_as_far_as_the_models_agree() -> None:
    *models, base = tensors(4)
    models = [x + 2 * models[0] for x in models]
    close(merged("model_stock", models, base), naive.model_stock(*numbers(base, models)))


def test_nearswap_moves_by_t_at_most() -> None:
    a, base = tensors(2)
    found = merged("nearswap", [a], base, t=0.3)
    near = (a - base).abs() <= 0.3
    assert torch.allclose(found[near], a[near], atol=ROUNDING)
    assert torch.allclose((found - base)[~near].abs(), torch.tensor(0.3), atol=ROUNDING)
    assert torch.equal(merged("nearswap", [a], base, t=-1.0), base)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_draws_keep_the_mean(name: str) -> None:
    """Over a million entries of 1 the mean of what is kept, divided by its chance, is 1 within 6 standard errors."""
    base = torch.zeros(1000, 1000)
    a = torch.rand(1000, 1000, generator=torch.Generator().manual_seed(1)) / 1e3 + 1
    given = {"density": [0.3], "normalize": False} | ({"epsilon": [0.1]} if name.startswith("della") else {})
    found = merged(name, [a], base, cut=100, **given)
    error = 6 * (1 / 0.2 - 1) ** 0.5 / 1e3
    assert abs(float(found.mean()) - 1) < error
    assert abs(float((found != 0).float().mean()) - 0.3) < error
    rough = merged(name, [a], base, cut=100, rescale=False, **given)
    assert torch.equal(rough[rough != 0], a[rough != 0])


def test_della_keeps_large_entries_more_often() -> None:
    base = torch.zeros(2000, 100)
    a = torch.arange(1.0, 101.0).repeat(2000, 1)
    kept = (merged("della_linear", [a], base, cut=2000, density=[0.5], epsilon=[0.3]) != 0).float().mean(0)
    assert torch.allclose(kept, torch.linspace(0.2, 0.8, 100), atol=6 * 0.5 / 2000**0.5)


@given(
    values=st.lists(st.floats(0, allow_infinity=False, width=32), min_size=1, max_size=40),
    rank=st.integers(1, 40),
    cut=st.integers(1, 7),
)
def test_the_kth_largest_is_found_without_sorting(values: list[float], rank: int, cut: int) -> None:
    rank = min(rank, len(values))
    whole = torch.tensor(values, dtype=torch.float32)
    stack = [Block(piece.unsqueeze(0)) for piece in whole.split(cut)]
    found = kth_largest(stack, [rank, 1], of=lambda block: [block.models[0], block.models[0]])
    assert found == [float(whole.sort(descending=True).values[rank - 1]), float(whole.max())]


def numbers(base: Tensor, models: list[Tensor]) -> Any:
    return base.double().numpy(), [x.double().numpy() for x in models]


def close(found: Tensor, wanted: naive.Array) -> None:
    assert np.abs(found.numpy() - wanted).max() < 2 * ROUNDING * max(1.0, np.abs(wanted).max())
