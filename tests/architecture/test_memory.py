"""What a plan says of memory a built model takes: weights and cache exactly, activations within a factor of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.memory import Task, bytes_of, fewest, layouts
from nexus_universal.architecture.stages import pipeline_stages
from nexus_universal.architecture.tensor_parallel import tensor_parallel_plan
from nexus_universal.integrations.pipeline import UniversalStage
from tests.architecture.small import attention, feed_forward, layer, small

ROWS, LENGTH = 2, 40
TYPES = ["qwen3", "qwen3_moe", "deepseek_v3", "gemma3_text", "qwen3_next", "gpt2", "mamba2"]


def n_of(model_type: str) -> ArchitectureParameter:
    family = families.find(model_type)
    return family.parameter({"model_type": model_type, **family.tiny})


def built(n: ArchitectureParameter, dtype: torch.dtype) -> UniversalTransformer:
    torch.manual_seed(0)
    return UniversalTransformer(n).to(dtype)


def parameter_bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", TYPES)
def test_weights_and_cache_are_exact(model_type: str, dtype: str) -> None:
    n, task = n_of(model_type), Task(dtype=dtype, context=LENGTH, batch=ROWS)
    found = {layout.name: layout.use for layout in layouts(n, task, gpus=2)}
    for name, share in (("one GPU", n), ("tensor parallel 2", tensor_parallel_plan(n, 2).share)):
        use = found[name]
        if use is None:
            continue
        model = built(share, getattr(torch, dtype)).eval()
        cache = model.new_cache()
        with torch.no_grad():
            model(torch.ones(ROWS, LENGTH, dtype=torch.long), cache=cache)
        assert use.weights == parameter_bytes(model)
        assert use.cache == cache.nbytes
        assert use.gradients == use.optimiser == 0


@pytest.mark.parametrize("model_type", TYPES)
def test_what_is_sharded_is_gathered_layer_by_layer(model_type: str) -> None:
    """FSDP2's units are the layers, and all the rest, which stays gathered."""
    n = n_of(model_type)
    found = {
        each.name: each.use for each in layouts(n, Task(dtype="float32", context=8, batch=2, training=True), gpus=2)
    }
    alone, sharded, model = found["one GPU"], found["FSDP 2"], built(n, torch.float32)
    assert alone is not None and sharded is not None
    layers = [parameter_bytes(layer) for layer in model.layers]
    rest = parameter_bytes(model) - sum(layers)
    half = 4 * -(-parameter_bytes(model) // 8)
    assert sharded.weights == half + rest + max(layers)
    assert (sharded.gradients, sharded.optimiser) == (half, 2 * half)
    assert sharded.activations == alone.activations / 2


@pytest.mark.parametrize("model_type", TYPES)
def test_training_takes_weights_gradients_and_two_moments(model_type: str) -> None:
    n = n_of(model_type)
    found = {
        layout.name: layout.use
        for layout in layouts(n, Task(dtype="float32", context=8, batch=1, training=True), gpus=2)
    }
    alone, cut = found["one GPU"], found["pipeline 2"]
    assert alone is not None and cut is not None
    assert alone.optimiser == 2 * alone.gradients == 2 * alone.weights and alone.cache == 0
    model = built(n, torch.float32)
    stages = [UniversalStage(model, stage) for stage in pipeline_stages(n, 2, context=8)]
    assert cut.weights in [parameter_bytes(stage) for stage in stages]


@pytest.mark.parametrize("model_type", [*TYPES[:-1], "gpt_oss", "phi3", "gemma2"])
def test_activations_are_estimated_within_a_factor_of_two(model_type: str) -> None:
    n = n_of(model_type)
    (alone,) = layouts(n, Task(dtype="float32", context=LENGTH, batch=ROWS, training=True), gpus=1)
    model = built(n, torch.float32).train()
    known = {parameter.data_ptr() for parameter in model.parameters()}
    held: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    kept: list[torch.Tensor] = []  # alive, so that no storage takes the place of another
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor), note(tensor))[1], lambda tensor: tensor
    ):
        logits = model(torch.ones(ROWS, LENGTH, dtype=torch.long)).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.ones(ROWS * LENGTH, dtype=torch.long))
    loss.backward()
    assert alone.use is not None
    assert 0.5 < alone.use.activations / sum(held.values()) < 2


def test_what_fits_is_found_and_what_would_do_is_said() -> None:
    n = families.find("qwen3").example()
    task = Task(dtype="bfloat16", context=4096, batch=1)
    found = layouts(n, task, gpus=6)
    assert [layout.gpus for layout in found if layout.name.startswith("tensor")] == [2, 4, 6]
    assert not any(layout.name.startswith("pipeline") for layout in found)
    one = found[0].use
    assert one is not None and found[0].fits(one.total) and not found[0].fits(one.total - 1)
    least = fewest(n, task, memory=one.total)
    assert least is not None and least.name == "one GPU"
    least = fewest(n, task, memory=one.total - 1)
    assert least is not None and (least.gpus, least.name) == (2, "tensor parallel 2")
    assert fewest(n, task, memory=10**6) is None


def test_a_layout_that_does_not_work_says_why() -> None:
    n = small(
        layer(attention(emit="kv", heads=3, kv_heads=3), feed_forward(width=3)),
        layer(attention(reuse="kv", heads=3, kv_heads=3), feed_forward(width=3)),
    )
    found = {
        layout.name: layout for layout in layouts(n, Task(dtype="float32", context=4, batch=1, training=True), gpus=2)
    }
    assert found["tensor parallel 2"].refused == "whole: 2 ranks do not divide 97 tokens"
    assert (
        found["pipeline 2"].refused
        == "2 layers cannot be cut into 2 stages: layers reuse 'kv', which earlier ones emit"
    )
    assert not found["pipeline 2"].fits(10**15)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("80GB", 80 * 10**9),
        ("80 GiB", 80 * 2**30),
        ("1.5gb", 1_500_000_000),
        ("512MiB", 2**29),
        ("4kB", 4000),
        ("7B", 7),
    ],
)
def test_memory_is_read_with_its_unit(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["80QB", "80", "GB", "-1GB", "0GB", "1e3GB", "80 G B", ""])
def test_memory_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="must be a number of bytes with its unit, such as 80GB or 40GiB"):
        bytes_of(text)
