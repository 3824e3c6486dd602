"""A bridge as a part of n: every field counts, its costs are those of its tensors, and what it reads must be there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.errors import InputError, InvalidArchitecture
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.fusion import Fusion, Member, alone
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, residual_step
from nexus_universal.layers.memories import DonorInput
from tests.helpers import raw

NORM = Norm(kind="layer", eps=1e-5, rounding="native")
IDS = torch.randint(0, 97, (2, 9), generator=torch.Generator().manual_seed(0))
PATH = "layers.1.bridge"
FORMS: dict[str, Any] = {
    "attention": CrossAttention(heads=2, head_dim=6, gated=True),
    "projection": FeedForward(width=10, activation="gelu", gated=False),
    "similarity": Similarity(threshold=-0.9),
}
forms = pytest.mark.parametrize("form", FORMS)


def crossed(form: str, **fields: Any) -> ArchitectureParameter:
    """A small Llama that reads a smaller GPT-2."""
    host = ArchitectureParameter.from_huggingface(raw("llama", num_hidden_layers=2))
    donor = ArchitectureParameter.from_huggingface(raw("gpt2", n_layer=3, n_embd=20, n_head=2))
    plain = {"donor": "d", "layer": 2, "donor_width": 20, "form": FORMS[form], "donor_norm": NORM}
    step = residual_step("bridge", Bridge(**{**plain, **fields}), norm=None if form == "similarity" else NORM)
    layer = dataclasses.replace(host.layers[1], steps=(*host.layers[1].steps, step))
    fusion = Fusion(name="h", members=(Member(name="d", n=donor),))
    return dataclasses.replace(host, layers=(host.layers[0], layer), fusion=fusion)


def built(n: ArchitectureParameter) -> UniversalTransformer:
    """With weights by seed and name, the gates open."""
    model = UniversalTransformer(n.validate()).eval()
    with torch.no_grad():
        for name, slot in model.named_parameters():
            seed = sum(name.encode())
            wide = torch.randn(slot.shape, generator=torch.Generator().manual_seed(seed)) * 0.4
            slot.copy_(wide + 1.0 if name.endswith("norm.weight") else wide)
    return model


def logits(model: UniversalTransformer) -> torch.Tensor:
    read = torch.arange(9).expand(2, -1)  # a token less than by position
    with torch.no_grad():
        return model(IDS, donors={"d": DonorInput(IDS, read)}).logits


@pytest.mark.parametrize(
    ("form", "path", "value"),
    [
        ("attention", "layer", 1),
        ("attention", "align", "byte"),
        ("attention", "gate", "token"),
        ("attention", "gate", "scalar"),
        ("attention", "zero", "out"),
        ("attention", "donor_norm", None),
        ("attention", "form.gated", False),
        ("attention", "form.heads", 1),
        ("attention", "form.head_dim", 4),
        ("projection", "align", "byte"),
        ("projection", "form.width", 8),
        ("projection", "form.activation", "relu"),
        ("projection", "form.gated", True),
        ("similarity", "form.threshold", 0.1),
        ("similarity", "donor_norm", None),
        ("similarity", "align", "byte"),
    ],
)
def test_every_field_counts(form: str, path: str, value: Any) -> None:
    n = crossed(form)
    assert (logits(built(n)) - logits(built(n.replace(f"{PATH}.{path}", value)))).abs().max() > 1e-4


@forms
@pytest.mark.parametrize("gate", ["request", "token", "scalar"])
def test_its_costs_are_those_of_its_tensors(form: str, gate: str) -> None:
    n = crossed(form, gate=gate).validate()
    model, count = built(n), n.count(context=1)
    assert count.parameters == sum(slot.numel() for slot in model.parameters())
    own = alone(n)
    plain, donor = own.count(context=1), n.branches["d"].count(context=1)
    bridge = sum(slot.numel() for name, slot in model.named_parameters() if name.startswith(PATH))
    read = UniversalTransformer(n.branches["d"])
    unread = [*read.layers[2].parameters(), *(read.final_norm.parameters() if read.final_norm else ())]
    assert count.active_parameters == plain.parameters + bridge + donor.parameters - sum(x.numel() for x in unread)
    if form != "attention":  # the counter does not know the CPU's fused attention
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(IDS[:1, :1])
        with FlopCounterMode(display=False) as reference, torch.no_grad():
            UniversalTransformer(own).eval()(IDS[:1, :1])
            read.residuals(IDS[:1, :1], after={2})
        uncounted = (
            count.flops_per_token - plain.flops_per_token - (counter.get_total_flops() - reference.get_total_flops())
        )
        attended = 2 * 2 * 20 * 2  # scores and mixture of the donor's two layers
        with FlopCounterMode(display=False) as donors, torch.no_grad():
            read.residuals(IDS[:1, :1], after={2})
        assert uncounted - donors.get_total_flops() == attended
    cache = model.new_cache()
    with torch.no_grad():
        model(IDS[:1], cache=cache)
        first = cache.nbytes
        model(IDS[:1, :1], cache=cache)
    assert cache.nbytes - first == n.count().cache_bytes_per_token


@forms
def test_n_says_what_it_reads(form: str) -> None:
    n = crossed(form).validate()
    assert list(n.bridges) == [PATH] and n.bridges[PATH].form == FORMS[form]
    assert ArchitectureParameter.from_json(n.to_json()) == n
    assert "bridge from d 2: " in n.signature
    assert alone(n).bridges == {} and alone(n).validate() == alone(n)
    written = n.formula().unicode
    assert "the residual of d after 2 layers,  j ≤ t" in written and "bridge(z) = tanh(α) · σ(W_c mean" in written
    by_byte = n.replace(f"{PATH}.align", "byte").replace(f"{PATH}.gate", "scalar").formula().unicode
    assert "token j read whole where token t ends" in by_byte and "bridge(z) = tanh(α) · " in by_byte
    assert {str(change).split(":")[0] for change in n.diff(n.replace(f"{PATH}.layer", 1))} == {"layers.1.bridge.layer"}


def nested(n: ArchitectureParameter) -> ArchitectureParameter:
    branch = Branch(name="inner", part=Program(steps=n.layers[1].steps))
    step = dataclasses.replace(residual_step("inner", branch.part, norm=None), branches=(branch,))
    return dataclasses.replace(n, layers=(n.layers[0], Program(steps=(step,)))).validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n.replace(f"{PATH}.donor", "x"), r"layers.1.bridge.donor = 'x' must name another member \(d\)"),
        (lambda n: n.replace("fusion", None), "must name another member .none: n has no other member"),
        (
            lambda n: n.replace(f"{PATH}.layer", 4),
            r"layers.1.bridge.layer = 4 must lie in \[0, 3\]: d has no more layers",
        ),
        (lambda n: n.replace(f"{PATH}.layer", -1), "must not be negative"),
        (
            lambda n: n.replace(f"{PATH}.donor_width", 24),
            "layers.1.bridge.donor_width = 24 must be 20, the donor's width",
        ),
        (
            lambda n: n.replace(f"{PATH}.form", Similarity()).replace(f"{PATH}.zero", "out"),
            "must be 'gate' where form is",
        ),
        (nested, "must stand in a step of the layer itself"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: Callable[..., object], message: str) -> None:
    with pytest.raises(InvalidArchitecture, match=message) as error:
        change(crossed("attention"))
    assert "\n" not in str(error.value)


def test_bridges_of_one_donor_are_aligned_alike() -> None:
    n = crossed("attention")
    other = dataclasses.replace(n.bridges[PATH], align="byte")
    layer = dataclasses.replace(n.layers[0], steps=(*n.layers[0].steps, residual_step("other", other, norm=NORM)))
    with pytest.raises(InvalidArchitecture, match=r"layers.1.bridge.align = 'position' must be 'byte', as in"):
        dataclasses.replace(n, layers=(layer, n.layers[1])).validate()


@torch.no_grad()
def test_a_cache_is_cropped_where_nothing_was_summed_up() -> None:
    models = {gate: built(crossed("attention", gate=gate)) for gate in ("token", "request")}
    caches = {gate: model.new_cache() for gate, model in models.items()}
    for gate, model in models.items():
        model(IDS, cache=caches[gate])
    caches["token"].crop(5)
    again = models["token"](IDS[:, 5:], cache=caches["token"]).logits
    torch.testing.assert_close(again, models["token"](IDS).logits[:, 5:], rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="a BridgeState cannot be cropped to 5"):
        caches["request"].crop(5)
    caches["request"].crop(0)
    whole = models["request"](IDS).logits
    torch.testing.assert_close(models["request"](IDS, cache=caches["request"]).logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gate", ["request", "token", "scalar"])
@forms
@torch.no_grad()
def test_what_it_adds_is_what_its_equation_says(form: str, gate: str) -> None:
    """Written out anew, position by position."""
    model = built(crossed(form, gate=gate))
    with model.record(f"{PATH}.input", f"{PATH}.output") as seen:
        model(IDS)
    z, given, bridge = seen[f"{PATH}.input"], seen[f"{PATH}.output"], model.get_submodule(PATH)
    states = model.members["d"].residuals(IDS, after={2})[2]  # type: ignore[operator]
    weight = dict(bridge.named_parameters())
    s = torch.nn.functional.layer_norm(states, (20,), weight["donor_norm.weight"], None, 1e-5)
    for row in range(2):
        for t in range(9):
            here, now = z[row, t], s[row, t]
            if form == "attention":
                q, out = weight["form.query.weight"] @ here, []
                for head in (slice(0, 6), slice(6, 12)):
                    keys, values = (
                        s[row, : t + 1] @ weight[f"form.{role}.weight"][head].T for role in ("key", "value")
                    )
                    scores = torch.cat([torch.zeros(1), keys @ q[head] * 6**-0.5]).softmax(0)
                    out.append(scores[1:] @ values)
                gated = torch.cat(out) * torch.nn.functional.silu(weight["form.output_gate.weight"] @ here)
                y = weight["form.output.weight"] @ gated
            elif form == "projection":
                y = weight["form.down.weight"] @ torch.nn.functional.gelu(weight["form.up.weight"] @ now)
            else:
                p = weight["form.output.weight"] @ now
                y = max(0.0, float(here @ p / here.norm() / p.norm()) + 0.9) * (p - here)
            y = torch.tanh(weight["gate"]) * y
            if gate != "scalar":
                asked = here if gate == "token" else z[row, : t + 1].mean(0)
                y = torch.sigmoid(weight["chosen.weight"] @ asked + weight["chosen.bias"]) * y
            torch.testing.assert_close(given[row, t], y, rtol=1e-4, atol=1e-5)
