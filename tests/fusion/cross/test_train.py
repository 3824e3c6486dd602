"""Bridges learn, all of their tensors, and nothing else does; what the host does on its own inputs is held."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.cross import Batch, CrossFusionConfig, CrossFusionManager, CrossFusionOptimizer, KLReplay
from nexus_universal.fusion.cross.manager import bridge_names
from nexus_universal.fusion.cross.stitch import fit
from nexus_universal.fusion.cross.train import divergence
from tests.fusion.cross.pieces import IDS, KINDS, attached, loaded
from tests.helpers import ROOT, raw
from tests.test_docs import module_at

REPLAY = Batch(IDS.flip(1))


@pytest.fixture(scope="module")
def host() -> UniversalTransformer:
    return loaded("qwen3_tiny")


@pytest.fixture(scope="module")
def donor() -> UniversalTransformer:
    return loaded("gemma3_tiny")


def hashed(manager: CrossFusionManager) -> str:
    own, digest = bridge_names(manager.model), hashlib.sha256()
    for name, slot in manager.model.state_dict().items():
        if name not in own:
            digest.update(name.encode() + slot.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_a_bridge_learns_by_the_third_step_and_no_other(
    kind: str, host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    manager = attached(host, donor, **KINDS[kind])
    config = CrossFusionConfig(taps=((3, 2), (6, 4)), **KINDS[kind])
    if config.kind in ("similarity", "contrastive"):
        fit(manager, config, Batch(IDS))
    before, bridges = (
        hashed(manager),
        {name: slot.detach().clone() for name, slot in bridge_names(manager.model).items()},
    )
    assert manager.report().dead == list(bridges)
    optimizer = CrossFusionOptimizer(manager, lr=1e-2)
    losses = [optimizer.step(Batch(IDS), IDS, replay=REPLAY) for _ in range(3)]
    report = manager.report()
    assert report.dead == [] and len(report.lines) == len(bridges)
    assert losses[0].replay == pytest.approx(0, abs=1e-6) and losses[-1].replay > 0
    assert hashed(manager) == before
    assert all(not torch.equal(slot, bridges[name]) for name, slot in bridge_names(manager.model).items())
    assert all(slot.grad is None for slot in (*host.parameters(), *donor.parameters()))
    with manager.bypass() as model:
        assert torch.equal(model(IDS).logits, host(IDS).logits)
    assert "layers.1.bridge_donor_3_2.form" in str(report) and "|gradient|" in str(report)


def test_two_zeros_in_a_row_never_move(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, kind="attention", taps=((3, 2),))
    torch.nn.init.zeros_(manager.model.get_parameter("layers.1.bridge_donor_3_2.form.output.weight"))
    optimizer = CrossFusionOptimizer(manager, lr=1e-2, retention=None)
    for _ in range(3):
        optimizer.step(Batch(IDS), IDS)
    assert manager.report().dead == list(bridge_names(manager.model))


def small(kind: dict[str, Any]) -> CrossFusionManager:
    """Models whose norms keep float64 (the references' RMSNorm computes in float32)."""
    torch.manual_seed(0)
    n = ArchitectureParameter.from_huggingface(raw("gpt2", vocab_size=64, n_layer=2, n_embd=16, n_head=2))
    models = [UniversalTransformer(n).double().eval() for _ in range(2)]
    return attached(*models, opened=True, taps=((1, 0), (2, 1)), **kind)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    manager, ids = small(KINDS[kind]), torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        return F.cross_entropy(manager.model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

    loss().backward()
    for name, slot in bridge_names(manager.model).items():
        assert slot.grad is not None and slot.dtype == torch.float64
        direction = torch.randn(slot.shape, generator=torch.Generator().manual_seed(2), dtype=slot.dtype)
        with torch.no_grad():
            sides = []
            for sign in (1, -1):
                slot.add_(direction, alpha=sign * 1e-5)
                sides.append(float(loss()))
                slot.sub_(direction, alpha=sign * 1e-5)
        slope, wanted = (sides[0] - sides[1]) / 2e-5, float((slot.grad * direction).sum())
        assert abs(slope - wanted) < 1e-3 * max(abs(wanted), 1e-4), name


def test_replay_holds_what_the_host_does(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    found = {}
    for weight in (0.0, 10.0):
        manager = attached(host, donor, **KINDS["attention"])
        optimizer = CrossFusionOptimizer(manager, lr=1e-2, retention=KLReplay(weight))
        for _ in range(8):
            optimizer.step(Batch(IDS), IDS, replay=REPLAY)
        found[weight] = float(divergence(manager, REPLAY).detach())
    assert found[10.0] < 0.5 * found[0.0]


def test_pads_are_not_replayed(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, opened=True, **KINDS["projection"])
    mask = torch.ones_like(IDS)
    mask[:, 15:] = 0
    with torch.no_grad():
        padded, short = divergence(manager, Batch(IDS, mask)), divergence(manager, Batch(IDS[:, :15]))
    torch.testing.assert_close(padded, short, rtol=1e-4, atol=1e-6)


def test_what_is_no_bridge_is_not_trained(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, kind="attention")
    known = r"only bridges are trained \(layers.1.bridge_donor_3_2, layers.3.bridge_donor_6_4\)"
    for name, what in (
        ("layers.0.attention.query.weight", "belongs to a backbone"),
        ("members.donor.layers.0.attention.query.weight", "belongs to a backbone"),
        ("layers.0.nothing", "is no tensor"),
    ):
        with pytest.raises(InputError, match=f"{name} {what}: {known}"):
            CrossFusionOptimizer(manager, [name])
    gate = "layers.1.bridge_donor_3_2.gate"
    optimizer = CrossFusionOptimizer(manager, [gate], lr=1e-2, retention=None)
    optimizer.step(Batch(IDS), IDS)
    assert [
        name for name, slot in bridge_names(manager.model).items() if slot.abs().sum() and name.endswith("gate")
    ] == [gate]
    for each, replay in ((optimizer, REPLAY), (CrossFusionOptimizer(manager), None)):
        with pytest.raises(InputError, match="give both or none"):
            each.step(Batch(IDS), IDS, replay=replay)


EXPERIMENT = module_at(ROOT / "scripts" / "experiments" / "cross_fusion.py")


def test_the_page_shows_what_was_measured_and_its_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "CROSS_FUSION.md").read_text(encoding="utf-8")
    results = json.loads((ROOT / "docs" / "experiments" / "cross_fusion.json").read_text(encoding="utf-8"))["results"]
    assert EXPERIMENT.markdown(results) in page and len(results) >= 3
    assert sum(seed["replay"]["host_unseen"] for seed in results) / len(results) >= 0.99
    for seed in results:
        assert seed["replay"]["held_out"] >= 0.8 and seed["replay"]["host_unseen"] >= 0.99
        assert seed["random donor"]["held_out"] <= 0.08 and seed["host_alone_composite"] <= 0.08
        assert all(seed[arm][flag] for arm in EXPERIMENT.ARMS for flag in ("bypass_equal", "backbones_equal"))
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    exec(compile(code[1], "CROSS_FUSION.md", "exec"), {})


@pytest.mark.slow
def test_a_task_that_neither_model_can_do_is_done() -> None:
    """The experiment of docs/experiments, one seed, shortly."""
    found = EXPERIMENT.run(1, steps=250, arms=("replay", "random donor"))
    assert found["host_alone_composite"] <= 0.08 and found["random donor"]["held_out"] <= 0.08
    assert found["replay"]["held_out"] >= 0.8 and found["replay"]["host_unseen"] >= 0.99
    for arm in ("replay", "random donor"):
        assert found[arm]["bypass_equal"] and found[arm]["backbones_equal"]
