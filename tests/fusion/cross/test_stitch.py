"""Maps found without training, or by contrast: found where two models agree, and a gate opens only for gain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.cross import Batch, CrossFusionConfig
from nexus_universal.fusion.cross.stitch import begin_with, bridge_at, contrast, fit, line_search, paired_states, ridge
from nexus_universal.layers.memories import DonorInput
from tests.fusion.cross.pieces import IDS, KINDS, attached, loaded

PATH = "layers.1.bridge_donor_2_2"
SAME = {"kind": "similarity", "gate": "scalar", "taps": ((2, 2),)}


@pytest.fixture(scope="module")
def host() -> UniversalTransformer:
    return loaded("qwen3_tiny")


@pytest.fixture(scope="module")
def donor() -> UniversalTransformer:
    return loaded("gemma3_tiny")


def test_ridge_finds_a_linear_map_and_shrinks_it() -> None:
    generator = torch.Generator().manual_seed(0)
    z, wanted = torch.randn(200, 12, generator=generator), torch.randn(7, 12, generator=generator)
    torch.testing.assert_close(ridge(z, z @ wanted.T, strength=1e-8), wanted, rtol=1e-4, atol=1e-4)
    assert ridge(z, z @ wanted.T, strength=1e3).norm() < 0.5 * wanted.norm()
    strength = 0.7
    penalty = strength * (z.T @ z).diagonal().mean()
    found = ridge(z, z @ wanted.T, strength=strength)
    gradient = z.T @ (z @ found.T - z @ wanted.T) + penalty * found.T
    assert gradient.abs().max() < 1e-2


def test_contrast_tells_tokens_apart_in_a_shared_subspace() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(400, 6, generator=generator)
    z = torch.cat([shared @ torch.randn(6, 10, generator=generator), 3 * torch.randn(400, 5, generator=generator)], 1)
    h = torch.cat([shared @ torch.randn(6, 9, generator=generator), 3 * torch.randn(400, 4, generator=generator)], 1)
    found = contrast(z, h, width=6, steps=120)
    assert found.shape == (13, 15)
    cosine = F.cosine_similarity(z @ found.T, h, dim=-1)
    assert cosine.mean() > 2 * F.cosine_similarity(z @ found.T, h.roll(1, 0), dim=-1).abs().mean()
    assert found[:, 10:].norm() < 0.3 * found[:, :10].norm()


def test_states_are_those_of_both_models(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, **SAME)
    mask = torch.ones_like(IDS)
    mask[0, 20:] = 0
    z, h = paired_states(manager, PATH, Batch(IDS, mask))
    with torch.no_grad():
        theirs, ours = (each.residuals(IDS, mask, after={2})[2][mask.bool()] for each in (donor, host))
    assert torch.equal(z, theirs) and torch.equal(h, ours) and len(z) == 44
    with pytest.raises(InputError, match=r"'layers.0.bridge' is no bridge \(known: layers.1.bridge_donor_2_2\)"):
        paired_states(manager, "layers.0.bridge", Batch(IDS))
    with pytest.raises(InputError, match="bridges are bypassed"), manager.bypass():
        paired_states(manager, PATH, Batch(IDS))


def test_a_model_is_stitched_to_itself(host: UniversalTransformer) -> None:
    ids = torch.randint(3, 1024, (16, 32), generator=torch.Generator().manual_seed(3))
    manager = attached(host, host, **SAME)
    fit(manager, CrossFusionConfig(**SAME), Batch(ids))
    z, h = paired_states(manager, PATH, Batch(IDS))
    mapped = z @ manager.model.get_parameter(f"{PATH}.form.output.weight").T
    assert F.cosine_similarity(mapped, h, dim=-1).mean() > 0.98


@torch.no_grad()
def test_a_gate_opens_where_that_helps_and_stays_closed_elsewhere(
    host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    manager = attached(host, donor, **SAME)
    gate = bridge_at(manager, PATH).gate
    assert gate is not None
    tried = line_search(manager, PATH, lambda: abs(float(torch.tanh(gate)) - 0.5))
    assert tried[0.5] == pytest.approx(0, abs=1e-6) and torch.tanh(gate).item() == pytest.approx(0.5)
    line_search(manager, PATH, lambda: float(gate))
    assert float(gate) == 0 and torch.equal(manager.model(IDS).logits, host(IDS).logits)
    closed = attached(host, donor, kind="projection", zero="out", taps=((2, 2),))
    with pytest.raises(InputError, match="has no gate to open"):
        line_search(closed, PATH, lambda: 0.0)


@pytest.mark.parametrize("kind", ["attention", "projection", "projection to zero"])
def test_others_begin_with_a_maps_strongest_directions(
    kind: str, host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    manager = attached(host, donor, **{**KINDS[kind], "taps": ((2, 2),)})
    found = torch.randn(96, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 96)
    begin_with(manager, PATH, found)
    reader = "key" if kind == "attention" else "up"
    weight = manager.model.get_parameter(f"{PATH}.form.{reader}.weight")[:3]
    _, _, directions = torch.linalg.svd(found)
    torch.testing.assert_close((weight @ directions[:3].T).abs(), torch.eye(3), rtol=1e-3, atol=1e-3)
    assert torch.equal(manager.model(IDS).logits, host(IDS).logits)


def test_where_the_donor_has_read_nothing_there_is_no_pair(
    host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    manager = attached(host, donor, **SAME, align="byte")
    read = (torch.arange(24) - 4).clamp(min=0).expand(2, -1)
    z, h = paired_states(manager, PATH, Batch(IDS, donors={"donor": DonorInput(IDS.flip(1), read)}))
    with torch.no_grad():
        theirs, ours = donor.residuals(IDS.flip(1), after={2})[2], host.residuals(IDS, after={2})[2]
    assert torch.equal(z, theirs[:, :19].flatten(0, 1)) and torch.equal(h, ours[:, 5:].flatten(0, 1))
