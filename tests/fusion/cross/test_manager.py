"""Bridges begin closed, can be bypassed and taken out bit by bit, and belong to n like everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError, InvalidArchitecture
from nexus_universal.fusion.branches import join_models
from nexus_universal.fusion.cross import PRESETS, CrossFusionConfig, CrossFusionManager, preset
from nexus_universal.fusion.retention import Tier, certified, evidence_of
from tests.fusion.cross.pieces import IDS, KINDS, attached, loaded
from tests.helpers import raw

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def host() -> UniversalTransformer:
    return loaded("qwen3_tiny")


@pytest.fixture(scope="module")
def donor() -> UniversalTransformer:
    return loaded("gemma3_tiny")


@kinds
@torch.no_grad()
def test_it_begins_as_the_host(kind: str, host: UniversalTransformer, donor: UniversalTransformer) -> None:
    model = attached(host, donor, **KINDS[kind]).model
    evidence = evidence_of("host", host(IDS).logits, model(IDS).logits)
    assert certified("cross-fusion", Tier.BITS, evidence).tier is Tier.BITS
    cache, own = model.new_cache(), host.new_cache()
    for piece in IDS.split((10, 13, 1), dim=1):
        assert torch.equal(model(piece, cache=cache).logits, host(piece, cache=own).logits)
    mask = torch.ones_like(IDS)
    mask[0, :7] = 0
    assert torch.equal(model(IDS, attention_mask=mask).logits, host(IDS, attention_mask=mask).logits)


@kinds
@torch.no_grad()
def test_bypassed_it_is_the_host_whatever_the_bridges_learned(
    kind: str, host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    manager = attached(host, donor, opened=True, **KINDS[kind])
    own, crossed = host(IDS).logits, manager.model(IDS).logits
    assert (own - crossed).abs().amax(dim=(1, 2)).min() > 1e-3
    with manager.bypass() as model:
        assert torch.equal(model(IDS).logits, own)
        settings = {"max_new_tokens": 4, "do_sample": False}
        assert torch.equal(model.generate(IDS, **settings), host.generate(IDS, **settings))
        assert torch.equal(model(IDS, capability="host").logits, own)
    with manager.bypass(torch.tensor([True, False])) as model:
        mixed = model(IDS).logits
    assert torch.equal(mixed[0], own[0]) and torch.equal(mixed[1], crossed[1])
    assert torch.equal(manager.model(IDS).logits, crossed)
    alone = manager.detach()
    assert alone.n == host.n and torch.equal(alone(IDS).logits, own)
    assert torch.equal(manager.model(IDS, capability="donor").logits, donor(IDS).logits)


@kinds
@torch.no_grad()
def test_steps_with_a_cache_see_what_one_call_sees(
    kind: str, host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    model = attached(host, donor, opened=True, **KINDS[kind]).model
    mask = torch.ones_like(IDS)
    mask[1, :5] = 0
    for given in (None, mask):
        whole, cache, found, seen = model(IDS, attention_mask=given).logits, model.new_cache(), [], 0
        for piece in IDS.split((9, 1, 13, 1), dim=1):
            seen += piece.shape[1]
            part = None if given is None else given[:, :seen]
            found.append(model(piece, attention_mask=part, cache=cache).logits)
        real = mask.bool() if given is not None else torch.ones_like(mask).bool()
        torch.testing.assert_close(torch.cat(found, 1)[real], whole[real], rtol=1e-4, atol=1e-4)
    assert cache.length == IDS.shape[1]


@torch.no_grad()
def test_no_position_sees_a_later_one_and_no_row_its_pads(
    host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    for kind in KINDS.values():
        model = attached(host, donor, opened=True, **kind).model
        changed = IDS.clone()
        changed[:, 12:] = 5
        assert torch.equal(model(changed).logits[:, :12], model(IDS).logits[:, :12])
        padded = torch.cat([torch.full_like(IDS[:, :6], 9), IDS], 1)
        mask = torch.cat([torch.zeros_like(IDS[:, :6]), torch.ones_like(IDS)], 1)
        logits = model(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[:, 6:]
        torch.testing.assert_close(logits, model(IDS).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_generation_goes_on_through_bridges(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    model = attached(host, donor, opened=True, **KINDS["attention"]).model
    found = model.generate(IDS, max_new_tokens=5, do_sample=False)
    assert torch.equal(found, model.generate(IDS, max_new_tokens=5, do_sample=False, use_cache=False))
    assert not torch.equal(found, host.generate(IDS, max_new_tokens=5, do_sample=False))


@kinds
@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(
    kind: str, host: UniversalTransformer, donor: UniversalTransformer, tmp_path: Path
) -> None:
    manager = attached(host, donor, opened=True, **KINDS[kind])
    manager.model.save_pretrained(tmp_path / "crossed", format="nexus")
    again = CrossFusionManager(UniversalTransformer.from_pretrained(tmp_path / "crossed"))
    assert again.model.n == manager.model.n
    assert torch.equal(again.model(IDS).logits, manager.model(IDS).logits)
    assert torch.equal(again.detach()(IDS).logits, host(IDS).logits)


@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_presets_fit_any_two_models(name: str, host: UniversalTransformer, donor: UniversalTransformer) -> None:
    config = preset(name, host.n, donor.n)
    manager = CrossFusionManager.attach(host, donor, config)
    assert len(manager.model.n.bridges) == len(config.taps) == len(PRESETS[name].depths)
    assert torch.equal(manager.model(IDS).logits, host(IDS).logits)
    assert preset(name, host.n, donor.n, align="byte").align == "byte"


@pytest.mark.parametrize("model_type", ["mamba2", "gpt2", "deepseek_v32"])
@torch.no_grad()
def test_donors_of_other_architectures(model_type: str, host: UniversalTransformer) -> None:
    torch.manual_seed(0)
    donor = UniversalTransformer(ArchitectureParameter.from_huggingface(raw(model_type, vocab_size=1024))).eval()
    depth = donor.n.num_layers
    model = attached(host, donor, opened=True, kind="attention", size=0.25, taps=((0, 0), (depth, 3))).model
    whole, cache = model(IDS).logits, model.new_cache()
    steps = torch.cat([model(piece, cache=cache).logits for piece in IDS.split((20, 1, 1, 2), 1)], 1)
    torch.testing.assert_close(steps, whole, rtol=1e-3, atol=1e-3)
    assert sum(slot.numel() for slot in model.parameters()) == model.n.count().parameters


@torch.no_grad()
def test_several_donors(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    first = attached(host, donor, opened=True, kind="projection")
    third = loaded("glm4_moe_lite_tiny")
    config = CrossFusionConfig(kind="attention", taps=((2, 3),), donor="experts")
    second = CrossFusionManager.attach(first.model, third, config)
    assert list(second.model.n.branches) == ["host", "donor", "experts"] and len(second.model.n.bridges) == 3
    assert torch.equal(second.model(IDS).logits, first.model(IDS).logits)
    assert torch.equal(second.detach()(IDS).logits, host(IDS).logits)


def test_attaching_copies_no_backbone(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, kind="attention")
    frozen = {slot.data_ptr() for slot in manager.model.parameters() if not slot.requires_grad}
    assert frozen == {slot.data_ptr() for model in (host, donor) for slot in model.parameters()}
    assert all(slot.requires_grad for slot in host.parameters())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"taps": ()}, "taps must not be empty"),
        ({"taps": ((7, 2),)}, r"bridge_donor_7_2.layer = 7 must lie in \[0, 6\]: donor has no more layers"),
        ({"taps": ((3, 5),)}, r"taps name layer 5 of the host: must lie in \[0, 4\]"),
        ({"taps": ((3, 2), (3, 2))}, "taps name a pair twice"),
        ({"taps": ((-1, 2),)}, "must not be negative|identifier"),
        ({"kind": "similarity", "zero": "out"}, "must be 'gate' where form is a Similarity"),
        ({"kind": "similarity", "threshold": 1.0}, r"must lie in \[-1, 1\)"),
        ({"donor": "host"}, "must have different names"),
    ],
)
def test_what_cannot_be_built_is_refused(
    config: dict[str, Any], message: str, host: UniversalTransformer, donor: UniversalTransformer
) -> None:
    with pytest.raises((InputError, InvalidArchitecture), match=message) as error:
        attached(host, donor, **{"kind": "attention", **config})
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_attached_are_refused(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    with pytest.raises(InputError, match="this model has no bridges"):
        CrossFusionManager(host)
    with pytest.raises(InputError, match="donor is fused"):
        attached(host, join_models(a=donor, b=host), kind="attention")
    streams = UniversalTransformer(ArchitectureParameter.from_huggingface(raw("gemma3n_text")))
    with pytest.raises(InputError, match="host has 4 residual streams"):
        attached(streams, donor, kind="attention")
    with pytest.raises(InvalidArchitecture, match="'donor' has 4 residual streams: a bridge reads one"):
        attached(host, streams, kind="attention", taps=((1, 1),))
    with pytest.raises(InputError, match="donor was optimised"):
        attached(host, loaded("gemma3_tiny").optimize(), kind="attention")
    with pytest.raises(InputError, match="called 'host' already, not 'other'"):
        attached(attached(host, donor, kind="attention").model, donor, kind="attention", host="other", donor="third")
    with pytest.raises(InputError, match=r"preset 'gpt-5' \(known: glm-4.7-flash, qwen3-4b"):
        preset("gpt-5", host.n, donor.n)


def test_calls_that_bridges_cannot_follow_are_refused(host: UniversalTransformer, donor: UniversalTransformer) -> None:
    manager = attached(host, donor, kind="attention")
    model = manager.model
    embeds = model.embedding.look_up(IDS)
    packed = torch.arange(12).repeat(2)[None]
    ready = torch.ones(2, 1, 24, 24, dtype=torch.bool).tril()
    for call, message in (
        ({"inputs_embeds": embeds}, "input_ids are needed: donor cannot read"),
        ({"input_ids": IDS, "attention_mask": ready}, "attention_mask has 4 dimensions"),
        ({"input_ids": IDS, "position_ids": packed}, "position_ids start anew within a row"),
    ):
        with pytest.raises(InputError, match=message):
            model(**call)
    cache = model.new_cache()
    with manager.bypass():
        model(IDS, cache=cache)
    with pytest.raises(
        InputError, match="this cache was filled while bridges were bypassed: donor has not read it all"
    ):
        model(IDS[:, :1], cache=cache)
