"""The weight table: every rule forwards and backwards, every parameter of every family with an entry."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import families
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.load import assemble, disassemble, idle_layers, plan_load, slots
from nexus_universal.checkpoint.rules import (
    Direct,
    Leading,
    Numbered,
    Rule,
    Sliced,
    Squeezed,
    Stacked,
    Transposed,
    WeightMap,
    names_of,
)
from nexus_universal.checkpoint.save import published_tensors
from tests.helpers import MODEL_TYPES, pair, reference, same, single_changes, universal

MAP = WeightMap(
    tensors={
        "embedding.tokens": "model.embed",
        "layers.{i}.attention.query": "model.layers.{i}.q",
        "layers.{i}.attention.fused": Transposed("h.{i}.c_attn"),
        "layers.{i}.experts.up": (Stacked(("l.{i}.e.{e}.w1.weight", "l.{i}.e.{e}.w3.weight")), Direct("l.{i}.up")),
        "layers.{i}.convolution.weight": Squeezed("l.{i}.conv.weight", axis=1),
        "layers.{i}.decay": "l.{i}.A_log",
    },
    passed_over={r"^mtp\.": "multi-token prediction", r"inv_freq$": "computed", r"^h\.{layers}\.": "beyond"},
)


@pytest.mark.parametrize(
    ("canonical", "rules"),
    [
        ("embedding.tokens.weight", (Direct("model.embed.weight"),)),
        ("layers.12.attention.query.bias", (Direct("model.layers.{i}.q.bias"),)),
        ("layers.3.attention.fused.weight", (Transposed("h.{i}.c_attn.weight"),)),
        ("layers.3.attention.fused.bias", (Direct("h.{i}.c_attn.bias"),)),
        ("layers.0.convolution.weight", (Squeezed("l.{i}.conv.weight", axis=1),)),
        ("layers.0.decay", (Direct("l.{i}.A_log"),)),
    ],
)
def test_a_parameter_finds_its_rule(canonical: str, rules: tuple[Rule, ...]) -> None:
    found, indices = MAP.rules(canonical)
    assert found == rules
    assert indices == tuple(part for part in canonical.split(".") if part.isdigit())


def test_names_are_filled_index_by_index_and_expert_by_expert() -> None:
    rules, indices = MAP.rules("layers.7.experts.up")
    assert names_of(rules[0], indices=indices, experts=2) == [
        "l.7.e.0.w1.weight",
        "l.7.e.0.w3.weight",
        "l.7.e.1.w1.weight",
        "l.7.e.1.w3.weight",
    ]
    assert names_of(rules[1], indices=indices, experts=2) == ["l.7.up"]
    assert names_of(Direct("a.{i}.b.{i}"), indices=("1", "2"), experts=1) == ["a.1.b.2"]


def test_slices_of_one_tensor_are_cut_and_put_together() -> None:
    class Parts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.key, self.query = (torch.nn.Linear(3, 2) for _ in range(2))
            self.layers = torch.nn.ModuleList()

    weights = WeightMap(tensors={"query": Sliced("a.qk", 0, 2), "key": Sliced("a.qk", 1, 2)})
    model = Parts()
    packed = published_tensors(model, weights)
    assert torch.equal(packed["a.qk.weight"], torch.cat([model.query.weight, model.key.weight]))
    assert torch.equal(packed["a.qk.bias"], torch.cat([model.query.bias, model.key.bias]))
    plan = plan_load(model, weights, {name: tuple(tensor.shape) for name, tensor in packed.items()})
    for name, (rule, names) in plan.sources.items():
        slot = slots(model)[name]
        cut = assemble(slot, rule, names, read=packed.__getitem__, read_into=lambda n, t: None, dtype=slot.dtype)
        assert same(cut, slot.detach()) and cut.untyped_storage().data_ptr() == packed[names[0]].data_ptr()
    with pytest.raises(CheckpointError, match="has shape"):
        plan_load(model, weights, {"a.qk.weight": (5, 3), "a.qk.bias": (4,)})


def test_a_parameter_without_an_entry_is_an_error() -> None:
    with pytest.raises(KeyError):
        MAP.rules("layers.0.unknown.weight")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mtp.layers.0.x", "multi-token prediction"),
        ("model.a.inv_freq", "computed"),
        ("model.mtp.x", None),
        ("inv_freq.x", None),
        ("h.3.x", "beyond"),
        ("h.2.x", None),
        ("h.30.x", None),
    ],
)
def test_reasons_to_pass_over(name: str, reason: str | None) -> None:
    assert MAP.reason_to_pass_over(name, layers=3) == reason


RULES: list[tuple[Rule, tuple[int, ...]]] = [
    (Direct("a"), (3, 4)),
    (Direct("a"), (5,)),
    (Transposed("a"), (3, 4)),
    (Transposed("a"), (3, 4, 5)),
    (Squeezed("a", axis=1), (3, 4)),
    (Squeezed("a", axis=0), (3,)),
    (Sliced("a", 0, 1), (3, 4)),
    (Squeezed("a", axis=(0, 1, 3)), (3,)),
    (Numbered("a.{e}"), (3, 4)),
    (Stacked(("a.{e}",)), (3, 4, 5)),
    (Stacked(("a.{e}", "b.{e}")), (3, 4, 5)),
    (Stacked(("a.{e}", "b.{e}")), (1, 2, 1)),
]


@settings(max_examples=60)
@given(
    index=st.integers(0, len(RULES) - 1), dtype=st.sampled_from([torch.float32, torch.bfloat16]), seed=st.integers(0, 9)
)
def test_a_rule_is_undone_by_its_inverse(index: int, dtype: torch.dtype, seed: int) -> None:
    rule, shape = RULES[index]
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    names = names_of(rule, indices=(), experts=shape[0])
    pieces = disassemble(whole, rule, names)
    assert list(pieces) == names

    def into(name: str, target: Tensor) -> None:
        target.copy_(pieces[name])

    back = assemble(whole, rule, names, read=pieces.__getitem__, read_into=into, dtype=dtype)
    assert same(back, whole)
    if not isinstance(rule, Stacked):
        assert back.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr(), "a view was copied"


def test_numbered_tensors_are_as_many_as_there_are() -> None:
    rule, whole = Numbered("t.{i}.{e}"), torch.randn(5, 3)
    pieces = {"t.2.0": whole[:2], "t.2.1": whole[2:4], "t.2.2": whole[4:], "t.2.4": whole, "t.3.0": whole}
    names = names_of(rule, indices=("2",), experts=5, given=pieces)
    assert names == ["t.2.0", "t.2.1", "t.2.2"]
    assert names_of(rule, indices=("1",), experts=5, given=pieces) == ["t.1.0"]
    read = {"read": pieces.__getitem__, "read_into": lambda *_: None}
    assert same(assemble(torch.empty(5, 3), rule, names, **read, dtype=torch.float32), whole)


def test_leading_rows_are_a_view_of_what_is_read() -> None:
    whole = torch.randn(5, 3)
    found = assemble(
        torch.empty(2, 3),
        Leading("a"),
        ["a"],
        read={"a": whole}.__getitem__,
        read_into=lambda *_: None,
        dtype=torch.float32,
    )
    assert same(found, whole[:2]) and found.data_ptr() == whole.data_ptr()


def test_gate_and_up_of_an_expert_are_stacked_gate_first() -> None:
    pieces = {
        "g.0": torch.zeros(2, 3),
        "u.0": torch.ones(2, 3),
        "g.1": torch.full((2, 3), 2.0),
        "u.1": torch.full((2, 3), 3.0),
    }
    rule = Stacked(("g.{e}", "u.{e}"))
    slot = torch.empty(2, 4, 3)
    names = names_of(rule, indices=(), experts=2)
    found = assemble(
        slot, rule, names, read=pieces.__getitem__, read_into=lambda n, t: t.copy_(pieces[n]), dtype=torch.float32
    )
    assert found[:, :, 0].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_familys_table_is_one_to_one(model_type: str) -> None:
    """No two parameters share a published tensor but for slices of it, and all of the reference's are named."""
    weights = families.find(model_type).weights
    theirs, ours = pair(model_type)
    seen: list[tuple[str, int]] = []
    for name, slot in slots(ours).items():
        rules, indices = weights.rules(name)
        slice_index = rules[0].index if isinstance(rules[0], Sliced) else 0
        experts = slot.shape[0] if slot.dim() else 1
        seen += [(found, slice_index) for found in names_of(rules[0], indices=indices, experts=experts)]
    assert len(seen) == len(set(seen))
    assert set(published_tensors(ours, weights)) == {name for name, _ in seen}
    inside, held = set(theirs.state_dict()), set()
    for name, slot in slots(ours).items():
        rules, indices = weights.rules(name)
        experts = slot.shape[0] if slot.dim() else 1
        choices = [set(names_of(rule, indices=indices, experts=experts)) for rule in rules]
        held |= next(choice for choice in choices if choice <= inside)
    tied = {"head.weight", *(slots(ours).keys() & {"head.bias"})} if ours.n.head.tied else set()
    twice = {rule.name for name in tied for rule in weights.rules(name)[0]} - held
    unused = {name for name in inside if weights.reason_to_pass_over(name, layers=ours.n.num_layers)} - held
    idle = idle_layers(ours)
    assert held == {name for name in inside - twice - unused if not weights.carries(name, idle=idle)}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_draw_that_changes_the_parameters_can_be_filled(model_type: str) -> None:
    """Biases, free heads, further norms: whatever a config may add has its entry."""
    known = {name: tuple(slot.shape) for name, slot in slots(pair(model_type)[1]).items()}
    changed = 0
    for key, value in single_changes(model_type):
        if key.startswith("rope") or "eps" in key or "theta" in key:
            continue
        theirs = reference(model_type, **{key: value})
        found = {name: tuple(slot.shape) for name, slot in slots(universal(theirs)).items()}
        changed += found != known
    assert changed >= 2


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_modules_named_by_the_table_exist_on_both_sides(model_type: str) -> None:
    """What localisation compares: each canonical module beside the reference's."""
    theirs, ours = pair(model_type)
    names: dict[str, Any] = dict(theirs.named_modules())
    both = 0
    for canonical, target in families.find(model_type).weights.modules():
        for layer in range(ours.n.num_layers):
            mine, other = canonical.replace("{i}", str(layer)), target.replace("{i}", str(layer))
            if other in names and mine in dict(ours.named_modules()):
                both += 1
    assert both > 5
