"""Total accounting: nothing in a config is overlooked. Every key is read, declared, or refused by its name."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from nexus_universal import ArchitectureParameter, NexusError, families
from nexus_universal.architecture.errors import UnknownModelType, UnsupportedConfig
from nexus_universal.families.shared.reader import INERT, IRRELEVANT, ConfigReader
from nexus_universal.parity.quirks import quirks
from tests.helpers import MODEL_TYPES, config, inert_values, raw

SETTLED = {model_type: config(model_type).to_dict() for model_type in MODEL_TYPES}
"""Every key that the reference's class writes, with the tiny config's values."""

MEANT = {
    "max_window_layers": (0, -1),  # from the first layer on
    "first_k_dense_replace": (0, -1),  # experts from the first layer on
    "granitemoehybrid/num_local_experts": (0,),  # none
    "num_dense_layers": (0, -1),  # experts from the first layer on
    "attn_layer_offset": (0,),  # the first layer of each period
    "expert_layer_offset": (0,),
    "cohere2_moe/num_shared_experts": (0,),
    "shared_intermediate_size": (0,),  # Granite: no shared network
    **dict.fromkeys((f"{name}/shared_intermediate_size" for name in ("granitemoehybrid", "minimax_m3_vl_text")), ()),
    "qwen2_moe/sliding_window": (0,),  # none, where windows are not used
    "moe_layer_start_index": (0, -1),
    "moe_layer_end_index": (0, -1),  # the last layer is -1
    "ernie4_5_moe/moe_num_shared_experts": (0,),
    "zero_expert_num": (0,),  # every choice is an expert
    "index_local_blocks": (0,),  # none comes first
    "num_kv_shared_layers": (0,),  # every layer keeps keys and values of its own
    "hidden_size_per_layer_input": (0,),  # no per-layer table
    "gemma3n_text/hidden_size_per_layer_input": (),
    "seed": (0, -1),  # numbers follow from any
    "altup_active_idx": (0,),  # the first stream
    "bos_token_id": (0, -1),  # an id that generation reads; no logit depends on it
    "eos_token_id": (0, -1),
    **{f"{part}_attn_{factor}_factor": (0, -1) for part in ("full", "linear") for factor in ("alpha", "beta")},
    **dict.fromkeys(("mlp_alpha_factor", "mlp_beta_factor"), (0, -1)),  # MiniMax: what a sum's terms are multiplied by
    "rescale_every": (0, -1),  # never
    "pad_token_id": (0, -1),  # a negative one counts from the table's end, as in torch
    **dict.fromkeys(  # positions begin behind the pad's row
        (f"{name}/pad_token_id" for name in MODEL_TYPES if quirks(name).positions_are_rows), (0,)
    ),
}
"""Whole numbers below 1 that mean something."""


OF_ANY_LENGTH = ("layers_block_type", "L_bp_cycles", "block_types", "ple_layer_ids")
"""Lists that say themselves how many layers there are, or are not about layers."""


def keys(model_type: str, *kinds: type) -> list[str]:
    """Every key that is read, where the reference's value is of a kind."""
    declared = {*IRRELEVANT, *families.find(model_type).irrelevant}
    return [k for k, v in SETTLED[model_type].items() if k not in declared and (not kinds or type(v) in kinds)]


def refusal(model_type: str, **changes: Any) -> str:
    with pytest.raises(NexusError) as caught:
        ArchitectureParameter.from_huggingface(
            {"model_type": model_type} | copy.deepcopy(SETTLED[model_type]) | changes
        )
    message = str(caught.value)
    assert "\n" not in message
    return message


def refuses(model_type: str, name: str, **changes: Any) -> bool:
    """Whether these changes are refused in a line that says the name."""
    raw_config = {"model_type": model_type} | copy.deepcopy(SETTLED[model_type]) | changes
    try:
        ArchitectureParameter.from_huggingface(raw_config)
    except NexusError as error:
        return "\n" not in str(error) and named(str(error), name)
    return False


def named(message: str, key: str) -> bool:
    """Whether the key stands in the message as a whole word."""
    return re.search(rf"(?<!\w){re.escape(key)}(?!\w)", message) is not None


types = pytest.mark.parametrize("model_type", MODEL_TYPES)


@types
def test_a_value_of_another_type_is_refused_by_name(model_type: str) -> None:
    wrong: tuple[Any, ...] = ({"a": "mapping"}, "text", 1.5j, [["nested"]])
    sections = {key for key, value in SETTLED[model_type].items() if isinstance(value, dict)}
    values = [
        (key, {"unknown": 1} if isinstance(value, dict) and key in sections else value)
        for key in keys(model_type)
        for value in wrong
    ]
    assert not [(key, value) for key, value in values if not refuses(model_type, key, **{key: value})]


@types
def test_a_count_below_one_is_refused_by_name(model_type: str) -> None:
    for key in keys(model_type, int):
        meant = MEANT.get(f"{model_type}/{key}", MEANT.get(key, ()))
        for value in (0, -1):
            if value in meant or value in INERT.get(key, ()):
                ArchitectureParameter.from_huggingface(SETTLED[model_type] | {key: value})
            else:
                assert refuses(model_type, key, **{key: value}), (key, value)


@types
def test_a_number_that_is_none_is_refused_by_name(model_type: str) -> None:
    values = [(key, value) for key in keys(model_type, float) for value in (float("nan"), float("inf"))]
    assert not [(key, value) for key, value in values if not refuses(model_type, key, **{key: value})]


@pytest.mark.parametrize("model_type", [t for t in MODEL_TYPES if "eps" in " ".join(keys(t))])
def test_a_negative_epsilon_is_refused(model_type: str) -> None:
    """Here the type is right and n itself objects, naming its own field."""
    key = next(key for key in keys(model_type) if "eps" in key)
    assert ".eps = -1.0 must not be negative" in refusal(model_type, **{key: -1.0})


@types
def test_lists_must_fit_the_layers(model_type: str) -> None:
    for key in keys(model_type, list):
        value = SETTLED[model_type][key]
        wrong: list[list[Any]] = []
        if value:
            wrong += [["foo"] * len(value)] + ([] if key in OF_ANY_LENGTH else [[*value, value[0]]])
        if not value or type(value[0]) is not float:  # elsewhere other numbers are as good
            wrong.append([1.5] * max(len(value), 1))
        assert not [each for each in wrong if not refuses(model_type, key, **{key: each})], key


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("value", [None, 0, "text", {}, []])
def test_an_unknown_key_is_refused_by_name_whatever_it_holds(model_type: str, value: Any) -> None:
    message = refusal(model_type, unsloth_version=value)
    assert f"{model_type}: unsloth_version = {value!r}" in message
    assert "--ignore-key unsloth_version" in message


@types
def test_inert_keys_have_their_values(model_type: str) -> None:
    for key in INERT.keys() - families.find(model_type).irrelevant.keys():
        for value in inert_values(model_type, key):
            ArchitectureParameter.from_huggingface(SETTLED[model_type] | {key: value})
        assert refuses(model_type, key, **{key: "another"}), key


# Nested settings

ROTATED = [t for t in MODEL_TYPES if families.find(t).rope != "none"]
INNER: dict[str, dict[str, Any]] = {
    "default": {"rope_theta": 100.0},
    "linear": {"rope_theta": 100.0, "factor": 2.0},
    "dynamic": {"rope_theta": 100.0, "factor": 2.0},
    "llama3": {
        "rope_theta": 100.0,
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {
        "rope_theta": 100.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 0.9,
        "mscale": 0.7,
        "mscale_all_dim": 0.8,
        "truncate": True,
    },
    "longrope": {
        "rope_theta": 100.0,
        "factor": 2.0,
        "original_max_position_embeddings": 16,
        "attention_factor": 0.9,
        "short_factor": [1.0],
        "long_factor": [2.0],
    },
    "proportional": {"rope_theta": 100.0, "factor": 2.0, "partial_rotary_factor": 0.5},
}
NARROW = {
    **dict.fromkeys(("phi3", "phi4_multimodal"), ("default", "longrope")),
    **dict.fromkeys(("phimoe", "recurrent_gemma"), ("default",)),
    "hy_v4": tuple(kind for kind in INNER if kind != "proportional"),
}
"""Families whose reference refuses all other rotations."""

OUTSIDE = [(t, "longrope", "original_max_position_embeddings") for t in ("phi3", "phi4_multimodal")]
"""One that stands outside the section overrules this key: what it holds is never looked at."""


def kinds_of(model_type: str) -> list[str]:
    """The rotations that a family knows."""
    return list(NARROW.get(model_type, INNER))


def nested_keys(model_type: str) -> list[tuple[str, str]]:
    """(rotation, key) of everything that is read of a section."""
    found = [(kind, key) for kind in kinds_of(model_type) for key in INNER[kind]]
    return [(kind, key) for kind, key in found if (model_type, kind, key) not in OUTSIDE]


def rope_of(model_type: str, inner: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """`rope_parameters` with this section, and the path of the section."""
    if families.find(model_type).rope == "flat":
        return {"rope_parameters": inner}, "rope_parameters"
    return {"rope_parameters": {"full_attention": inner}}, "rope_parameters.full_attention"


OF_PARTS = ("minimax_m2", "minimax_m3_vl_text", "qwen4_exp_text")
"""Families that turn parts of heads where they are told, and whole ones by default."""

rotated = pytest.mark.parametrize("model_type", ROTATED)


@rotated
def test_a_whole_section_is_read(model_type: str) -> None:
    for kind in kinds_of(model_type):
        section = rope_of(model_type, {"rope_type": kind, **INNER[kind]})[0]
        ArchitectureParameter.from_huggingface(raw(model_type) | section)


@rotated
def test_a_nested_value_of_another_type_is_refused_by_its_path(model_type: str) -> None:
    wrong: tuple[Any, ...] = ({}, "text", [], True)
    for kind, key in nested_keys(model_type):
        for value in wrong:
            if (key == "truncate" and value is True) or (key in ("short_factor", "long_factor") and value == []):
                continue  # of the right type
            section, path = rope_of(model_type, {"rope_type": kind, **INNER[kind], key: value})
            assert refuses(model_type, f"{path}.{key}", **section), (kind, key, value)


@rotated
def test_an_unknown_nested_key_is_refused_by_its_path(model_type: str) -> None:
    for kind in kinds_of(model_type):
        section, path = rope_of(model_type, {"rope_type": kind, **INNER[kind], "stretch": 1000.0})
        message = refusal(model_type, **section)
        assert f"{model_type}: {path}.stretch = 1000.0" in message
        n = ArchitectureParameter.from_huggingface(raw(model_type) | section, ignore_keys=[f"{path}.stretch"])
        assert n.origin.ignored_keys == (f"{path}.stretch",)


@pytest.mark.parametrize("model_type", ROTATED)
def test_an_unknown_rotation_is_refused_with_the_known_ones(model_type: str) -> None:
    section, path = rope_of(model_type, {"rope_type": "foo"})
    message = refusal(model_type, **section)
    known = ", ".join(NARROW.get(model_type, ("default", "linear", "dynamic", "llama3", "yarn")))
    assert f"{model_type}: {path}.rope_type = 'foo' (known: {known}" in message


@pytest.mark.parametrize("model_type", ROTATED)
@pytest.mark.parametrize("wrong", ["text", 3, ["list"]])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_a_rotation_that_is_no_object_is_refused(model_type: str, key: str, wrong: Any) -> None:
    assert named(refusal(model_type, **{key: wrong}), key)


def test_a_nested_section_that_is_no_object_is_refused() -> None:
    assert "rope_parameters.full_attention" in refusal("gemma3_text", rope_parameters={"full_attention": "text"})


@pytest.mark.parametrize(
    "model_type", [t for t in ROTATED if families.find(t).partial_rotary_factor is None and t not in OF_PARTS]
)
def test_a_partial_rotation_that_the_family_ignores_is_refused(model_type: str) -> None:
    """The reference rotates whole heads here and says nothing: what it does with the key would be a guess."""
    section, path = rope_of(model_type, {"rope_type": "default", "partial_rotary_factor": 0.5})
    assert f"{path}.partial_rotary_factor" in refusal(model_type, **section)


@pytest.mark.parametrize("kind", ["llama3", "yarn", "longrope"])
def test_a_missing_nested_key_is_named(kind: str) -> None:
    inner = {key: value for key, value in INNER[kind].items() if key not in ("low_freq_factor", "short_factor")}
    if kind == "yarn":
        n = ArchitectureParameter.from_huggingface(
            raw("llama", rope_parameters={"rope_type": kind, **inner, "factor": None})
        )
        assert n.rope_scaling.factor == 64 / 16  # the ratio of the contexts
    else:
        assert " is missing" in refusal("llama", rope_parameters={"rope_type": kind, **inner})


# Values that exclude each other

CONTRADICTIONS = [
    ("llama", {"num_attention_heads": 3, "num_key_value_heads": 2}, "kv_heads"),
    ("llama", {"head_dim": 7}, "rope.fraction"),
    ("llama", {"pad_token_id": 97}, "pad_token_id"),
    ("cohere2", {"head_dim": 16}, "head_dim"),
    ("cohere2", {"use_qk_norm": True}, "use_qk_norm"),
    ("cohere2", {"rotary_pct": 0.5}, "rotary_pct"),
    ("cohere2", {"use_parallel_block": False}, "use_parallel_block"),
    ("cohere2", {"use_embedding_sharing": False}, "use_embedding_sharing"),
    ("gpt2", {"n_head": 5}, "n_head"),
    ("gpt2", {"n_embd": 48, "hidden_size": 64}, "n_embd"),
    ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("gemma3_text", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar"),
    ("qwen3", {"layer_types": ["sliding_attention"] * 2, "use_sliding_window": False}, "layer_types"),
    ("mixtral", {"num_experts_per_tok": 7}, "per_token"),
    ("qwen3_moe", {"num_experts_per_tok": 9}, "per_token"),
    ("qwen3_moe", {"mlp_only_layers": ["0"]}, "mlp_only_layers"),
    ("qwen3_next", {"linear_num_value_heads": 3}, "key_heads"),
    ("glm4_moe_lite", {"n_group": 3}, "router.groups.count"),
    ("glm4_moe_lite", {"n_group": 2, "topk_group": 3}, "keep"),
    ("glm4_moe_lite", {"num_key_value_heads": 2}, "num_key_value_heads"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func"),
    ("deepseek_v3", {"topk_method": "greedy"}, "topk_method"),
    ("deepseek_v3", {"moe_layer_freq": 2}, "moe_layer_freq"),
    ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
    ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
    ("qwen2", {"attention_bias": True}, "attention_bias"),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types"),
    ("llama", {"experts_implementation": "eager"}, "experts_implementation"),
    ("llama", {"attn_implementation": "eager"}, "attn_implementation"),
    ("llama", {"is_causal": False}, "is_causal"),
    ("llama", {"dtype": "float8"}, "dtype"),
    ("llama", {"hidden_act": "mish"}, "hidden_act"),
]


@pytest.mark.parametrize(
    ("model_type", "changes", "word"), CONTRADICTIONS, ids=[f"{t}-{w}" for t, _, w in CONTRADICTIONS]
)
def test_what_cannot_be_is_refused_by_name(model_type: str, changes: dict[str, Any], word: str) -> None:
    assert named(refusal(model_type, **changes), word)


# What a user insists on


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_ignored_keys_are_recorded(model_type: str) -> None:
    given = raw(model_type, unsloth_version="2025.1", vendor_note={"a": 1})
    with pytest.raises(UnsupportedConfig, match="vendor_note"):
        ArchitectureParameter.from_huggingface(given, ignore_keys=["unsloth_version"])
    n = ArchitectureParameter.from_huggingface(given, ignore_keys=["vendor_note", "unsloth_version", "absent"])
    assert set(n.origin.ignored_keys) == {"vendor_note", "unsloth_version"}
    plain = ArchitectureParameter.from_huggingface(raw(model_type))
    assert n == plain and n.signature == plain.signature
    assert plain.origin.ignored_keys == ()
    assert plain.origin.family == model_type


def test_a_key_that_matters_cannot_be_ignored() -> None:
    with pytest.raises(UnsupportedConfig, match="hidden_act"):
        ArchitectureParameter.from_huggingface(raw("llama", hidden_act="mish"), ignore_keys=["hidden_act"])


# Names of families


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("qwen3_mo", "qwen3_moe"), ("lama", "llama"), ("gemma3_txt", "gemma3_text"), ("gpt-2", "gpt2")],
)
def test_an_unknown_model_type_names_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(UnknownModelType, match=f"'{asked}'.*did you mean '{nearest}'"):
        ArchitectureParameter.from_huggingface({"model_type": asked})


def test_an_unknown_model_type_says_where_the_known_are_listed() -> None:
    with pytest.raises(UnknownModelType) as caught:
        ArchitectureParameter.from_huggingface({"model_type": "zzzz"})
    assert f"`nexus families` lists all {len(families.model_types())} that are" in str(caught.value)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"model_type": None}, {"model_type": 3}, {"model_type": ["llama"]}])
def test_a_config_without_model_type(given: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedConfig, match="model_type"):
        ArchitectureParameter.from_huggingface(given)


# The reader itself


def test_a_key_that_nobody_asked_for_is_an_error() -> None:
    reader = ConfigReader(
        "some", {"asked": 1, "overlooked": 2, "inner": {"x": 1, "y": 2}, "gone": 3}, irrelevant={"gone": "why"}
    )
    assert reader.take("asked", 0) == 1
    inner = reader.section("inner")
    inner.take("x", 0)
    with pytest.raises(UnsupportedConfig, match="overlooked = 2"):
        reader.finish()
    reader.take("overlooked", 0)
    with pytest.raises(UnsupportedConfig, match=r"inner\.y = 2"):
        reader.finish()
    inner.take("y", 0)
    assert reader.finish() == ()


@pytest.mark.parametrize(
    ("default", "value", "accepted"),
    [(1.0, 2, True), (1, 2.0, False), (1, True, False), (True, 1, False), ("a", 1, False), (1.0, "2", False)],
)
def test_types_are_the_defaults_but_an_int_stands_for_a_float(default: Any, value: Any, accepted: bool) -> None:
    reader = ConfigReader("some", {"key": value})
    if accepted:
        assert reader.take("key", default) == value and type(reader.take("key", default)) is type(default)
    else:
        with pytest.raises(UnsupportedConfig, match="key"):
            reader.take("key", default)
