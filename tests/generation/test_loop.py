"""What the loop hands to a model, and what it refuses before it hands over anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import InputError
from nexus_universal.generation import GenerationSettings, generate, stream
from tests.helpers import MODEL_TYPES, ids, pair, raw

N = ArchitectureParameter.from_huggingface(raw("llama"))


class Counter:
    """A model without weights: the next id is one more than the last. It keeps what it was called with."""

    def __init__(self, n: ArchitectureParameter = N, dtype: torch.dtype = torch.float32) -> None:
        self.n, self.dtype = n, dtype
        self.settings = GenerationSettings()
        self.calls: list[dict[str, Any]] = []

    def new_cache(self, batch_size: int = 1) -> list[int]:
        return [batch_size]

    def __call__(self, fresh: Tensor, **call: Any) -> SimpleNamespace:
        assert not torch.is_grad_enabled()
        self.calls.append({"ids": fresh, **call})
        following = (fresh[:, -1:] + 1) % self.n.d_vocab
        logits = torch.nn.functional.one_hot(following, self.n.d_vocab).to(self.dtype)
        return SimpleNamespace(logits=logits)


def test_any_model_with_the_face_runs() -> None:
    model = Counter()
    found = generate(model, torch.tensor([[5, 1], [7, 95]]), max_new_tokens=3)
    assert found.tolist() == [[5, 1, 2, 3, 4], [7, 95, 96, 0, 1]]
    prefill, *steps = model.calls
    assert prefill["ids"].shape == (2, 2) and all(call["ids"].shape == (2, 1) for call in steps)
    assert all(call["cache"] is prefill["cache"] and call["cache"] == [2] for call in model.calls)
    assert all(call["logits_to_keep"] == 1 and call["attention_mask"] is None for call in model.calls)
    assert [call["position_ids"].tolist() for call in model.calls] == [[[0, 1], [0, 1]], [[2], [2]], [[3], [3]]]


def test_positions_follow_the_mask_and_the_mask_grows() -> None:
    model = Counter()
    mask = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    generate(model, ids(2, 4), mask, max_new_tokens=3)
    assert [call["position_ids"].tolist() for call in model.calls] == [
        [[0, 0, 0, 1], [0, 0, 0, 1]],
        [[2], [2]],
        [[3], [3]],
    ]
    assert model.calls[2]["attention_mask"].tolist() == [[0, 0, 1, 1, 1, 1], [0, 1, 0, 1, 1, 1]]


def test_without_a_cache_everything_is_read_again() -> None:
    model = Counter()
    generate(model, torch.tensor([[5, 6]]), max_new_tokens=3, use_cache=False)
    assert [call["ids"].tolist() for call in model.calls] == [[[5, 6]], [[5, 6, 7]], [[5, 6, 7, 8]]]
    assert [call["position_ids"].tolist() for call in model.calls] == [[[0, 1]], [[0, 1, 2]], [[0, 1, 2, 3]]]
    assert all(call["cache"] is None for call in model.calls)


def test_steps_come_one_by_one_and_say_which_rows_go_on() -> None:
    model = Counter()
    steps = stream(model, torch.tensor([[5], [7]]), max_new_tokens=9, eos_token_id=[8, 11], pad_token_id=0)
    assert not model.calls
    first = next(steps)
    assert (first.ids.tolist(), first.running.tolist(), len(model.calls)) == ([6, 8], [True, False], 1)
    assert [(step.ids.tolist(), step.running.tolist()) for step in steps] == [
        ([7, 0], [True, False]),
        ([8, 0], [False, False]),
    ]
    assert len(model.calls) == 3


def test_grad_mode_is_left_as_it_was_between_steps() -> None:
    steps = stream(Counter(), torch.tensor([[5]]), max_new_tokens=3)
    for _ in steps:
        assert torch.is_grad_enabled()


class Recorder:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def put(self, value: Tensor) -> None:
        self.given.append(value.tolist())

    def end(self) -> None:
        self.given.append("end")


def test_a_streamer_gets_what_the_references_gives() -> None:
    theirs, ours = pair("llama")
    recorders = Recorder(), Recorder()
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}
    theirs.generate(ids(1, 4), streamer=recorders[0], eos_token_id=None, **settings)
    ours.generate(ids(1, 4), streamer=recorders[1], eos_token_id=[], **settings)
    assert recorders[0].given == recorders[1].given
    assert recorders[1].given[0] == ids(1, 4).tolist() and recorders[1].given[-1] == "end"


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape, dtype=torch.long)


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        ([[1, 2]], None, "input_ids must be a tensor [batch, seq] of whole numbers, not list"),
        (torch.tensor([1, 2]), None, "input_ids have shape (2,), must be (batch, seq)"),
        (torch.tensor([[1.0]]), None, "input_ids are torch.float32, must be torch.int64 or torch.int32"),
        (ones(1, 0), None, "the prompt is empty"),
        (ones(0, 4), None, "the prompt is empty"),
        (torch.tensor([[1, 97]]), None, "input_ids hold 97, outside the vocabulary: must lie in [0, 97)"),
        (torch.tensor([[1, -1]]), None, "input_ids hold -1, outside the vocabulary"),
        (ones(1, 3), ones(1, 2), "attention_mask has shape (1, 2), must be that of input_ids, (1, 3)"),
        (ones(1, 3), ones(3), "attention_mask has shape (3,)"),
        (ones(1, 3), [[1, 1, 1]], "attention_mask must be a tensor"),
        (ones(1, 3), torch.tensor([[1, 2, 1]]), "attention_mask must hold 1 for real tokens and 0 for pads"),
        (ones(1, 3), torch.tensor([[1.0, -torch.inf, 1]]), "attention_mask must hold 1"),
        (ones(2, 3), torch.tensor([[1, 1, 1], [0, 0, 0]]), "row 1 has no real token"),
        (ones(2, 3), torch.tensor([[1, 1, 1], [1, 1, 0]]), "row 1 is padded on the right"),
        (ones(1, 65), None, "the prompt has 65 tokens, the context is 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_refused_in_one_line_by_the_call_itself(given: Any, mask: Any, message: str) -> None:
    model = Counter()
    for call in (generate, stream):
        with pytest.raises(InputError) as caught:
            call(model, given, mask, max_new_tokens=2)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not model.calls


def test_pads_do_not_count_towards_the_context() -> None:
    mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), ones(1, 64)], dim=1)
    assert generate(Counter(), ones(1, 69), mask, max_new_tokens=2).shape == (1, 71)


def test_a_rotated_model_may_go_on_beyond_its_context() -> None:
    assert generate(Counter(), ones(1, 64), max_new_tokens=9).shape == (1, 73)


def test_learned_positions_end_with_their_table() -> None:
    _, ours = pair("gpt2")
    table = ours.n.embedding.positions
    assert table is not None
    prompt = ids(1, table.count - 4)
    assert ours.generate(prompt, max_new_tokens=5, eos_token_id=[]).shape == (1, table.count + 1)
    message = rf"{table.count - 4} tokens and 6 new ones .* context is {table.count}.* room for 5"
    with pytest.raises(InputError, match=message):
        ours.generate(prompt, max_new_tokens=6, eos_token_id=[])
    mask = (torch.arange(table.count - 4) >= 7).long()[None]
    assert ours.generate(prompt, mask, max_new_tokens=12, eos_token_id=[]).shape == (1, table.count + 8)


def test_a_pad_outside_the_vocabulary_is_refused_only_where_it_would_be_used() -> None:
    settings: dict[str, Any] = {"max_new_tokens": 3, "eos_token_id": 3, "pad_token_id": -1}
    assert generate(Counter(), ones(1, 2), **settings).tolist() == [[1, 1, 2, 3]]
    with pytest.raises(InputError, match="finished rows are filled with -1"):
        generate(Counter(), ones(2, 2), **settings)


def test_logits_are_compared_in_float32() -> None:
    """In bfloat16 a penalty of 1.001 would round away."""
    model = Counter(dtype=torch.bfloat16)
    both = torch.zeros(1, 1, 97, dtype=torch.bfloat16)
    both[..., 5], both[..., 6] = 1.0, 1.0
    model.__class__ = type("Tied", (Counter,), {"__call__": lambda self, fresh, **call: SimpleNamespace(logits=both)})
    assert generate(model, torch.tensor([[5]]), max_new_tokens=1, repetition_penalty=1.001).tolist() == [[5, 6]]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family_refuses_ids_outside_its_vocabulary(model_type: str) -> None:
    _, ours = pair(model_type)
    with pytest.raises(InputError, match="outside the vocabulary"):
        ours.generate(torch.tensor([[ours.n.d_vocab]]))
