"""Random weights are drawn as the reference draws them: distribution by distribution, tensor by tensor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.checkpoint.load import slots
from tests.helpers import MODEL_TYPES, built, config, ids, universal

WIDER: dict[str, Any] = {"pad_token_id": 5, "initializer_range": 0.05}
types = pytest.mark.parametrize("model_type", MODEL_TYPES)


def drawn(model_type: str, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Tensor], UniversalTransformer]:
    """The reference's fresh weights under our names, our own, and our model; changes go to a text section, too."""
    torch.manual_seed(0)
    family = families.find(model_type)
    if "text_config" in family.sections:
        changes = changes | {"text_config": {**family.tiny["text_config"], **changes}}
    settled = config(model_type, **changes)
    theirs = universal(built(settled))
    ours = UniversalTransformer(ArchitectureParameter.from_huggingface(settled))
    return dict(theirs.named_slots()), dict(ours.named_slots()), ours


OTHERWISE = {
    "nanochat": "of what writes to the residual it shrinks the attention's outputs alone",
    "recurrent_gemma": "its variances go by depth, kernel and width, of which its config says little",
    "rwkv": "its matrices start orthogonal, its token vectors all but at 0",
    "xlstm": "every matrix that has a gate in its name starts at 0, a feed-forward's and so its output, too",
    "modernbert-decoder": "it cuts the tails off its normal numbers, and shrinks its head, too",
    "openai-gpt": "its matrices start at 0.02, whatever its config says",
    "nemotron": "its norms start at 1 + 1: meant are weights around 0",
}
"""Types that the reference starts otherwise, and why ours does not."""


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name not in OTHERWISE])
def test_each_tensor_has_the_references_distribution(model_type: str) -> None:
    theirs, ours, _ = drawn(model_type, **WIDER)
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        expected = theirs[name].detach().float()
        found = tensor.detach().float()
        assert found.shape == expected.shape
        if len(expected.unique()) == 1:  # ones or zeros
            assert torch.equal(found, expected), name
            continue
        if name.endswith("state_space.decay_log"):
            assert torch.equal(found, expected), name
            continue
        if name.endswith("decay_log"):
            for sample in (found, expected):
                lowest = -math.inf if model_type == "olmo_hybrid" else math.log(0.01)  # it starts uniform from 0 on
                assert lowest <= float(sample.min()) and float(sample.max()) <= math.log(16), name
            continue
        noise = 6 / math.sqrt(2 * found.numel())  # six standard errors of a standard deviation
        assert abs(float(found.std() / expected.std()) - 1) < 2 * noise, name
        allowed = 6 * float(expected.std()) * math.sqrt(2 / found.numel())
        assert abs(float(found.mean() - expected.mean())) < allowed, name


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "modernbert-decoder"])  # draws it, too
def test_the_pad_row_is_zero_where_the_references_is(model_type: str) -> None:
    theirs, ours, _ = drawn(model_type, **WIDER)
    name = "embedding.tokens.weight"
    zero_rows = [[row for row in range(97) if not bool(table[name][row].any())] for table in (theirs, ours)]
    assert zero_rows[0] == zero_rows[1]


def test_gpt2_shrinks_what_writes_to_the_residual() -> None:
    _, ours, _ = drawn("gpt2", n_layer=8, n_embd=96)
    for name, scale in (("attention.output", 1 / 4), ("feed_forward.down", 1 / 4), ("feed_forward.up", 1.0)):
        assert float(ours[f"layers.3.{name}.weight"].detach().std()) == pytest.approx(0.02 * scale, rel=0.05)


def test_decays_are_drawn_over_their_whole_range() -> None:
    _, ours, _ = drawn("qwen3_next", linear_num_value_heads=64, linear_num_key_heads=2)
    values = torch.cat([tensor.detach() for name, tensor in ours.items() if name.endswith("decay_log")]).exp()
    assert 0.01 <= float(values.min()) < 1.0 and 15.0 < float(values.max()) <= 16.0
    assert float(values.mean()) == pytest.approx(8.0, rel=0.15)


def test_time_steps_are_drawn_over_their_whole_range() -> None:
    """Log-uniform between `time_step_min` and `time_step_max`, none below `time_step_floor`, before the softplus."""
    sizes = {"hidden_size": 512, "num_heads": 256, "head_dim": 4, "num_hidden_layers": 4}
    _, ours, _ = drawn("mamba2", **sizes, time_step_min=0.001, time_step_max=0.1, time_step_floor=0.01)
    found = torch.cat([tensor.detach() for name, tensor in ours.items() if name.endswith("step_bias")])
    steps = torch.nn.functional.softplus(found)
    assert 0.0099 < float(steps.min()) < 0.0101 and 0.09 < float(steps.max()) <= 0.1001
    assert float((steps < 0.0101).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert float(steps[steps > 0.0101].log().mean()) == pytest.approx(math.log(0.1) - math.log(10) / 2, abs=0.1)


@types
def test_a_fresh_model_runs_and_a_seed_repeats_it(model_type: str) -> None:
    n = ArchitectureParameter.from_huggingface(config(model_type))
    models = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        models.append(UniversalTransformer(n))
    first, again, other = (model(ids(1, 9)).logits for model in models)
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_building_under_another_default_dtype_or_device() -> None:
    n = ArchitectureParameter.from_huggingface(config("glm4_moe_lite"))
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = UniversalTransformer(n)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    with torch.device("meta"):
        assert all(slot.is_meta for slot in slots(UniversalTransformer(n)).values())
