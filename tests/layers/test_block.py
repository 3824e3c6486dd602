"""Blocks: the wiring of any program against the same program carried out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nexus_universal import ArchitectureParameter, UniversalTransformer, UniversalTransformerBlock
from nexus_universal.architecture.ends import Embedding, Head
from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import (
    Branch,
    Linear,
    Program,
    Read,
    Step,
    Term,
    Write,
    residual_step,
)
from tests.helpers import MODEL_TYPES, ids, pair, same

WIDTH = 6
NORM = Norm(kind="rms", eps=1e-3)
FFN = FeedForward(width=5, activation="silu")
ATTENTION = Attention(heads=2, kv_heads=2, head_dim=4)


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module.requires_grad_(False)


def carried_out(block: nn.Module, program: Program, registers: dict[str, Tensor]) -> dict[str, Tensor]:
    """The program, step by step, with the block's own children called by their names."""
    registers = dict(registers)

    def child(name: str, x: Tensor) -> Tensor:
        return block.get_submodule(name)(x)

    for step in program.steps:
        read = [registers[name] for name in step.read.registers]
        u = torch.cat(read, -1) if step.read.join == "concat" and len(read) > 1 else sum(read[1:], read[0])
        u = u if step.read.scale is None else u * step.read.scale
        anchor = step.branches[0].name if step.branches else "step"
        v = u if step.norm is None else child(f"{anchor}_norm", u)
        values = {**registers, "u": u, "v": v}
        for branch in step.branches:
            x = v if branch.input_norm is None else child(f"{branch.name}_input_norm", v)
            x = x if branch.input_scale is None else x * branch.input_scale
            if isinstance(branch.part, Program):
                inner = {**registers, "x": x}
                y = carried_out(block.get_submodule(branch.name), branch.part, inner)["x"]
            else:
                y = child(branch.name, x)
            values[branch.name] = y if branch.output_norm is None else child(f"{branch.name}_output_norm", y)
        for write in step.writes:
            terms = [values[t.source] if t.scale is None else values[t.source] * t.scale for t in write.terms]
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            total = total if write.divisor is None else total / write.divisor
            total = total if write.norm is None else child(f"{anchor}_{write.register}_write_norm", total)
            values[write.register] = registers[write.register] = total if write.scale is None else total * write.scale
    return registers


scales = st.sampled_from([None, None, 0.5, 1.7])
norms = st.sampled_from([None, NORM])


@st.composite
def steps(draw: st.DrawFn, number: int, registers: list[str], *, nested: bool = True) -> Step:
    """Any step that can be meant: one or two branches, sums in any order, further registers."""
    names = [f"b{number}{letter}" for letter in "pq"[: draw(st.integers(1, 2))]]
    branches = []
    for name in names:
        part: Any = FFN
        if nested and draw(st.integers(0, 3)) == 0:
            part = Program(steps=(draw(steps(10 * number + 1, ["x", "e"], nested=False)),))
        branches.append(
            Branch(
                name=name,
                part=part,
                input_norm=draw(norms),
                input_scale=draw(scales),
                output_norm=draw(norms),
            )
        )
    read = tuple(draw(st.permutations(registers))[: draw(st.integers(1, len(registers)))])
    writes = []
    for index, target in enumerate(draw(st.sampled_from([["x"], ["x", "m"], ["m", "x"]]))):
        sources = names if index == 0 else []
        extra = draw(st.lists(st.sampled_from([*registers, "u", "v"]), max_size=2))
        chosen = draw(st.permutations([*sources, *(extra or (["u"] if not sources else []))]))
        writes.append(
            Write(
                terms=tuple(Term(source=source, scale=draw(scales)) for source in chosen),
                register=target,
                scale=draw(scales),
                divisor=draw(st.sampled_from([None, 1.3])),
                norm=draw(norms) if nested and index == 0 and number == 0 else None,
            )
        )
    return Step(
        branches=tuple(branches), writes=tuple(writes), read=Read(registers=read, scale=draw(scales)), norm=draw(norms)
    )


@settings(max_examples=80)
@given(data=st.data())
def test_any_wiring_is_what_its_program_says(data: st.DataObject) -> None:
    first = data.draw(steps(0, ["x", "e"]))
    registers = ["x", "e", *(["m"] if len(first.writes) == 2 else [])]
    program = Program(steps=(first, data.draw(steps(1, registers))))
    block = randomised(UniversalTransformerBlock(program, d_model=WIDTH))
    generator = torch.Generator().manual_seed(1)
    given_registers = {name: torch.randn(2, 4, WIDTH, generator=generator) for name in ("x", "e")}
    expected = carried_out(block, program, given_registers)
    found = block(given_registers)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert same(found[name], value), name
    assert set(given_registers) == {"x", "e"}, "the caller's registers were written to"


def test_a_concatenated_read_widens_what_the_branch_gets() -> None:
    step = Step(
        branches=(Branch(name="mix", part=Linear(), input_norm=NORM),),
        writes=(Write(terms=(Term(source="x"), Term(source="x")), register="m"), Write(terms=(Term(source="x"),))),
        read=Read(registers=("x", "e"), join="concat"),
    )
    block = UniversalTransformerBlock(Program(steps=(step,)), d_model=WIDTH)
    assert block.mix_input_norm.weight.shape == (2 * WIDTH,)
    assert block.mix.weight.shape == (WIDTH, 2 * WIDTH)
    wider = replace(step, branches=(Branch(name="mix", part=FFN, input_norm=NORM),))
    with pytest.raises(UnsupportedPart, match=rf"FeedForward of vectors of {2 * WIDTH} yet \(computed: {WIDTH}\)"):
        UniversalTransformerBlock(Program(steps=(wider,)), d_model=WIDTH)


@pytest.mark.parametrize("order", [("x", "p", "q"), ("p", "q", "x"), ("q", "x", "p")])
def test_the_order_of_a_sum_is_kept(order: tuple[str, ...]) -> None:
    """(x + p) + q and (p + q) + x differ in bits, so the order is data."""
    branches = tuple(Branch(name=name, part=FeedForward(width=64, activation="silu")) for name in "pq")
    write = Write(terms=tuple(Term(source=source) for source in order))
    block = randomised(
        UniversalTransformerBlock(Program(steps=(Step(branches=branches, writes=(write,)),)), d_model=64)
    )
    x = torch.randn(1, 500, 64) * 3
    values = {"x": x, "p": block.p(x), "q": block.q(x)}
    first, second, third = (values[name] for name in order)
    assert same(block(x), first + second + third)
    other = third + second + first
    assert not torch.equal(block(x), other)


def test_a_block_alone_is_the_models_own() -> None:
    ours = pair("gemma3_text")[1]
    x = torch.randn(1, 25, 48, generator=torch.Generator().manual_seed(0))
    for index in (0, 5):
        alone = UniversalTransformerBlock(ours.n, layer_index=index)
        alone.load_state_dict(ours.layers[index].state_dict())
        with torch.no_grad():
            assert same(alone(x), ours.layers[index]({"x": x, "e": x}, ours.plan.begin(x))["x"])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_mixer_has_a_state_of_its_own(model_type: str) -> None:
    cache = pair(model_type)[1].new_cache()
    n = pair(model_type)[1].n
    expected = {
        f"layers.{index}.{path}"
        for index, layer in enumerate(n.layers)
        for path, branch in layer.all_branches()
        if isinstance(branch.part, HashedNgrams)
        or (branch.part.role == "mixer" and not getattr(branch.part, "reuse", None))
    }
    assert set(cache.states) == expected
    assert len({id(state) for state in cache.states.values()}) == len(expected)


def test_states_of_nested_mixers_are_found() -> None:
    """A mixer inside a program of a program keeps its own state, and a cached run equals the whole."""
    attention = Attention(heads=2, kv_heads=2, head_dim=4)
    inner = Program(steps=(residual_step("attention", attention, norm=NORM),))
    layer = Program(steps=(residual_step("sub", inner, norm=NORM), residual_step("attention", attention, norm=NORM)))
    n = ArchitectureParameter(
        embedding=Embedding(vocab=97, width=8), layers=(layer, layer), final_norm=NORM, head=Head(tied=True)
    ).validate()
    model = randomised(UniversalTransformer(n))
    cache = model.new_cache()
    assert set(cache.states) == {f"layers.{i}.{name}" for i in (0, 1) for name in ("attention", "sub.attention")}
    x = ids(1, 9)
    pieces = [model(piece, cache=cache).logits for piece in x.split([4, 1, 4], dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(x).logits, atol=1e-4)


def test_a_layer_scale_multiplies_the_sum_and_keeps_its_dtype() -> None:
    write = Write(terms=(Term(source="x"), Term(source="a")), layer_scale=True)
    program = Program(steps=(Step(branches=(Branch(name="a", part=FFN),), writes=(write,)),))
    block = randomised(UniversalTransformerBlock(program, d_model=WIDTH))
    block.a_x_scale.value.fill_(0.5)
    x = torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(1))
    assert torch.equal(block(x), (x + block.a(x)) * 0.5)
    assert "a_x_scale.value" in dict(block.named_buffers())
    half = block.to(torch.bfloat16)
    half.a_x_scale.value = half.a_x_scale.value.float()  # as a checkpoint may hold it
    assert half(x.bfloat16()).dtype == torch.bfloat16


def shared_model(**fields: Any) -> UniversalTransformer:
    """Three turns of one layer: the weights once, the states three times."""
    steps = (residual_step("attention", ATTENTION, norm=NORM), residual_step("a", FFN, norm=NORM))
    turns = tuple(
        Program(steps=steps, share="loop.0", detached=index in fields.get("detached", ())) for index in range(3)
    )
    n = ArchitectureParameter(
        embedding=Embedding(vocab=97, width=8), layers=turns, final_norm=NORM, head=Head(tied=True)
    ).validate()
    return UniversalTransformer(n)


def test_turns_of_a_loop_share_their_weights_and_keep_states_of_their_own() -> None:
    model = randomised(shared_model())
    names = [name for name, _ in model.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"embedding", "shared", "final_norm"}
    assert "shared.loop.0.attention.query.weight" in names
    assert len({id(layer) for layer in model.layers}) == 3 and model.layers[0].a is model.layers[2].a
    cache = model.new_cache()
    assert set(cache.states) == {f"layers.{index}.attention" for index in range(3)}
    x = ids(1, 9)
    pieces = [model(piece, cache=cache).logits for piece in x.split([4, 1, 4], dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), model(x).logits, atol=1e-4)
    assert sum(p.numel() for p in model.parameters()) == model.n.count(context=9).parameters


def test_a_branch_shares_its_part_and_not_its_norms() -> None:
    def layer(name: str) -> Program:
        branch = Branch(name="a", part=FFN, share="twin", output_norm=NORM)
        return Program(steps=(Step(branches=(branch,), writes=(Write(terms=(Term(source="x"), Term(source="a"))),)),))

    n = ArchitectureParameter(
        embedding=Embedding(vocab=97, width=8), layers=(layer("a"),) * 2, final_norm=NORM, head=Head(tied=True)
    ).validate()
    model = UniversalTransformer(n)
    assert model.layers[0].a is model.layers[1].a
    assert model.layers[0].a_output_norm is not model.layers[1].a_output_norm
    assert sum(p.numel() for p in model.parameters()) == n.count(context=1).parameters


def test_no_gradient_goes_back_through_a_detached_turn() -> None:
    grads = []
    for detached in ((), (0, 1), (0, 1, 2)):
        model = shared_model(detached=detached)
        randomised(model).requires_grad_(True)
        model(ids(1, 5)).logits.square().sum().backward()
        grads.append(model.shared.loop.get_submodule("0").a.up.weight.grad)
    assert grads[2] is None and grads[0] is not None and not torch.equal(grads[0], grads[1])


def test_two_norms_of_one_name_are_refused() -> None:
    program = Program(steps=(residual_step("a", FFN, norm=NORM), residual_step("a", FFN, norm=NORM)))
    with pytest.raises(UnsupportedPart, match="a_norm"):
        UniversalTransformerBlock(program, d_model=WIDTH)
