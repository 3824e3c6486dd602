"""v4's and v5's spellings of one config are one n, and the reference reads them alike."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRotaryEmbedding

from nexus_universal import ArchitectureParameter, NexusError, families
from nexus_universal.architecture.mixers import Attention
from nexus_universal.families.shared.spelling import normalised
from nexus_universal.layers.rope import frequencies
from tests.helpers import MODEL_TYPES, config, explicit, raw, single_changes

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.5, 1.6, 1.7, 1.8, 1.9, 2.0]}
NESTED = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
}


def with_theta(theta: float = 10000.0, **scaling: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | scaling}


PAIRS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {"rope_theta": 500.0}, with_theta(500.0)),
    ("llama", {"rope_theta": 500.0, "rope_scaling": None}, with_theta(500.0)),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}, with_theta(rope_type="linear", factor=4.0)),
    (
        "llama",
        {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3"} | LLAMA3},
        with_theta(500.0, rope_type="llama3", **LLAMA3),
    ),
    ("llama", {"rope_scaling": YARN}, with_theta(**YARN, original_max_position_embeddings=64)),
    (
        "llama",
        {"rope_scaling": YARN, "original_max_position_embeddings": 16},
        with_theta(**YARN, original_max_position_embeddings=16),
    ),
    ("llama", {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}),
    ("qwen3_next", {"partial_rotary_factor": 0.5, "rope_theta": 500.0}, with_theta(500.0, partial_rotary_factor=0.5)),
    ("qwen3_next", {"rope_theta": 500.0}, with_theta(500.0, partial_rotary_factor=0.25)),
    (
        "qwen3_next",
        {"full_attention_interval": 2},
        {"layer_types": ["linear_attention", "full_attention"] * 2},
    ),
    (
        "gemma3_text",
        {"rope_theta": 500.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_parameters": NESTED},
    ),
    (
        "gemma3_text",
        {"sliding_window_pattern": 3},
        {
            "layer_types": ["sliding_attention"] * 2
            + ["full_attention"]
            + ["sliding_attention"] * 2
            + ["full_attention"]
        },
    ),
    ("cohere2", {"sliding_window_pattern": 2}, {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    ("gpt2", {"n_embd": 24}, {"hidden_size": 24}),
    ("gpt2", {"n_head": 6}, {"num_attention_heads": 6}),
    ("gpt2", {"n_layer": 3}, {"num_hidden_layers": 3}),
    ("gpt2", {"n_positions": 48}, {"max_position_embeddings": 48}),
    ("mixtral", {"num_experts": 3}, {"num_local_experts": 3}),
    ("qwen3_moe", {"num_local_experts": 5}, {"num_experts": 5}),
    ("glm4_moe_lite", {"num_local_experts": 5}, {"n_routed_experts": 5}),
    ("deepseek_v3", {"num_local_experts": 12}, {"n_routed_experts": 12}),
    ("gemma", {"hidden_act": "gelu", "head_dim": 8}, {"hidden_act": "gelu_pytorch_tanh", "head_dim": 8}),
    ("glm", {"rope_theta": 500.0}, with_theta(500.0, partial_rotary_factor=0.5)),
    ("glm", {"eos_token_id": None}, {"eos_token_id": [151329, 151336, 151338]}),
    ("glm4_moe", {"partial_rotary_factor": 0.25}, with_theta(partial_rotary_factor=0.25)),
    (
        "phi3",
        {"rope_scaling": {"type": "su", "original_max_position_embeddings": 8} | LONG},
        with_theta(rope_type="longrope", **LONG),
    ),
    ("phi3", {"rope_scaling": {"type": "yarn"} | LONG}, with_theta(rope_type="longrope", **LONG)),
    (
        "phi3",
        {"rope_scaling": {"type": "longrope"} | LONG, "original_max_position_embeddings": 8},
        with_theta(rope_type="longrope", **LONG) | {"original_max_position_embeddings": 8},
    ),
]
OLD_NAMES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
    },
    "mixtral": {"num_experts": "num_local_experts"},
}
"""What a spelling replaces in the tiny config: two spellings at once would not be one config."""


def only_one_spelling(model_type: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The tiny config with changes, without a second spelling of what they say."""
    values = explicit(model_type)
    aliases = families.find(model_type).aliases
    for key in changes:
        group = {aliases.get(key, key)} | {old for old, new in aliases.items() if new == aliases.get(key, key)}
        values = {name: value for name, value in values.items() if name not in group}
    return values | copy.deepcopy(changes)


@pytest.mark.parametrize(("model_type", "old", "new"), PAIRS, ids=[f"{t}-{'-'.join(old)}" for t, old, _ in PAIRS])
def test_two_spellings(model_type: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    ours_old, ours_new = (
        ArchitectureParameter.from_huggingface({"model_type": model_type} | only_one_spelling(model_type, changes))
        for changes in (old, new)
    )
    assert not ours_old.diff(ours_new)
    assert (ours_old, ours_old.text) == (ours_new, ours_new.text)
    plain = ArchitectureParameter.from_huggingface(raw(model_type))
    assert ours_new != plain or ours_new.text != plain.text, "the spelling under test changes nothing"
    settled = type(config(model_type))(**only_one_spelling(model_type, old))
    theirs = ArchitectureParameter.from_huggingface(settled)
    assert not ours_old.diff(theirs)
    assert (ours_old, ours_old.text) == (theirs, theirs.text)


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if families.find(name).rope == "flat"])
def test_every_scaling_in_v4_spelling(model_type: str) -> None:
    """`rope_theta` outside, the rest in `rope_scaling`, the type under either of its names."""
    drawn = [value for key, value in single_changes(model_type) if key == "rope_parameters"]
    for value, type_key in product(drawn, ("type", "rope_type")):
        new = raw(model_type, rope_parameters=value)
        inner = dict(new["rope_parameters"])
        old = {name: item for name, item in new.items() if name != "rope_parameters"}
        if "rope_theta" in inner:
            old["rope_theta"] = inner.pop("rope_theta")
        old["rope_scaling"] = {type_key: inner.pop("rope_type", "default")} | inner
        assert ArchitectureParameter.from_huggingface(old) == ArchitectureParameter.from_huggingface(new), value


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_reading_leaves_the_config_alone(model_type: str) -> None:
    config_of_user = raw(model_type) | {"torch_dtype": "float32", "rope_scaling": None}
    if families.find(model_type).rope == "none":
        config_of_user.pop("rope_scaling")
    before = copy.deepcopy(config_of_user)
    ArchitectureParameter.from_huggingface(config_of_user)
    assert config_of_user == before


def test_what_is_inside_wins() -> None:
    """An inner theta beats an outer one, `rope_scaling` beats `rope_parameters`, as in the reference."""
    raw_config = {
        "rope_theta": 1.0,
        "rope_parameters": {"rope_type": "linear", "factor": 2.0},
        "rope_scaling": {"type": "linear", "factor": 3.0, "rope_theta": 4.0},
    }
    found = normalised(raw_config, aliases={}, rope="flat", rope_theta=5.0)
    assert found == {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 4.0}}


def optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


THETAS, CONTEXTS = st.sampled_from([100.0, 500]), st.sampled_from([16, 32])


@st.composite
def scalings(draw: st.DrawFn) -> dict[str, Any]:
    """A scaling with the keys of its type, spelled in any way; now and then two types, or none."""
    kind = draw(st.sampled_from(["default", "linear", "yarn"]))
    spelled = draw(st.sampled_from([("rope_type",), ("type",), ("type", "rope_type"), ()]))
    scaling: dict[str, Any] = {name: kind if name == spelled[-1] else "default" for name in spelled}
    if kind != "default":
        scaling["factor"] = 4.0
    if kind == "yarn" and draw(st.booleans()):
        scaling["original_max_position_embeddings"] = draw(CONTEXTS)
    return scaling | draw(optional(rope_theta=THETAS))


OUTER = {
    "rope_theta": THETAS,
    "rope_scaling": st.none() | scalings(),
    "torch_dtype": st.sampled_from([None, "bfloat16"]),
    "dtype": st.sampled_from([None, "float32"]),
}
OUTER_CONTEXT = st.just({}) | st.just({}) | st.fixed_dictionaries({"original_max_position_embeddings": CONTEXTS})
SPELLINGS = {
    "llama": optional(rope_parameters=st.none() | scalings(), **OUTER),
    "qwen3_next": optional(rope_parameters=st.none() | scalings(), partial_rotary_factor=st.just(0.5), **OUTER),
    "gemma3_text": optional(
        rope_parameters=st.none() | optional(full_attention=scalings(), sliding_attention=scalings()),
        rope_local_base_freq=THETAS,
        **OUTER,
    ),
}


@pytest.mark.parametrize("model_type", SPELLINGS)
@settings(max_examples=100)
@given(data=st.data())
def test_any_mixture_of_spellings(model_type: str, data: st.DataObject) -> None:
    """Whatever the mixture: n's frequencies are the reference's, and a second reading of its config is the same n."""
    drawn = explicit(model_type) | data.draw(SPELLINGS[model_type]) | data.draw(OUTER_CONTEXT)
    try:
        theirs = type(config(model_type))(**copy.deepcopy(drawn))
        expected = reference_frequencies(theirs)
    except (KeyError, TypeError, ValueError):
        return  # the reference cannot read it at all
    try:
        ours = ArchitectureParameter.from_huggingface({"model_type": model_type} | drawn)
    except NexusError:
        return  # refused by name
    found = {kind_of(part): part for part in attentions(ours)}
    for kind, part in found.items():
        assert torch.equal(frequencies(part.rope.scaling, part.rope, part.head_dim), expected[kind][0])
        assert getattr(part.rope.scaling, "table_factor", 1.0) == expected[kind][1]
    settled = ArchitectureParameter.from_huggingface(theirs)
    assert not ours.diff(settled)
    assert ours.text == settled.text


@pytest.mark.parametrize("model_type", SPELLINGS)
def test_the_mixtures_are_mostly_read(model_type: str) -> None:
    """The property above would be empty if everything were refused."""
    outcomes = []

    @settings(max_examples=100, database=None, derandomize=True)
    @given(drawn=SPELLINGS[model_type])
    def read(drawn: dict[str, Any]) -> None:
        try:
            ArchitectureParameter.from_huggingface({"model_type": model_type} | explicit(model_type) | drawn)
            outcomes.append(True)
        except NexusError:
            outcomes.append(False)

    read()
    assert sum(outcomes) > 0.3 * len(outcomes)


def attentions(n: ArchitectureParameter) -> list[Attention]:
    return [branch.part for layer in n.layers for branch in layer.branches() if isinstance(branch.part, Attention)]


def kind_of(part: Attention) -> str:
    return "sliding_attention" if part.window else "full_attention"


def reference_frequencies(settled: Any) -> dict[str, tuple[torch.Tensor, float]]:
    """What the reference's rotary module computes from its config, by layer type."""
    if settled.model_type == "gemma3_text":
        module = Gemma3RotaryEmbedding(settled)
        kinds = ("full_attention", "sliding_attention")
        return {k: (getattr(module, f"{k}_inv_freq"), getattr(module, f"{k}_attention_scaling")) for k in kinds}
    module = {"llama": LlamaRotaryEmbedding, "qwen3_next": Qwen3NextRotaryEmbedding}[settled.model_type](settled)
    return {"full_attention": (module.inv_freq, module.attention_scaling)}
