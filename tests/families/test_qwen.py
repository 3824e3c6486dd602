"""Qwen-7B of 2023 beyond the length it was trained on, held to a definition of its own; `qwen2` is for tests/parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.position import Rope, SteppedScaling
from nexus_universal.cache import Cache
from nexus_universal.layers.rope import UniversalRoPE
from nexus_universal.parity.modes import MODES, Ours, compare, positions_of, sample
from nexus_universal.parity.prove import Pair
from nexus_universal.parity.references import reference_and_n
from tests.checkpoint.on_disk import tensors_of
from tests.families.borrowed import checkpoint, doubled
from tests.helpers import furthest, ids, same
from tests.references.qwen_v1 import QwenV1, growth

TRAINED = 16
CLOSE = 3e-5
"""Of float32 against float64, relative to the largest logit; a flag left out moves logits by a tenth and more."""


class Both:
    """The one class and the definition, with one checkpoint."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        tensors, self.config = checkpoint("qwen", directory, seq_length=TRAINED, **changes)
        self.tensors = doubled(tensors)
        self.model = UniversalTransformer.from_pretrained(directory)

    def definition(self) -> QwenV1:
        return QwenV1(self.tensors, {"rotary_pct": 1.0, "use_dynamic_ntk": True, "use_logn_attn": True, **self.config})


@pytest.fixture
def both(tmp_path: Path) -> Both:
    return Both(tmp_path / "qwen")


def close(found: Tensor, expected: Tensor) -> bool:
    return furthest(found.detach().double(), expected) < CLOSE


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32, 33, 90])
def test_a_prompt_of_any_length(both: Both, length: int) -> None:
    row = ids(1, length)
    assert close(both.model(row).logits[0], both.definition()(row[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dynamic_ntk": False},
        {"use_logn_attn": False},
        {"use_dynamic_ntk": False, "use_logn_attn": False},
        {"no_bias": False},
        {"rotary_pct": 0.5, "rotary_emb_base": 500.0},
    ],
    ids=str,
)
def test_flags(tmp_path: Path, changes: dict[str, Any]) -> None:
    both, row = Both(tmp_path / "qwen", **changes), ids(1, 70)
    expected = both.definition()(row[0])
    assert close(both.model(row).logits[0], expected)
    if "use_dynamic_ntk" in changes or "use_logn_attn" in changes:
        plain = QwenV1(both.tensors, {**both.definition().config, "use_dynamic_ntk": True, "use_logn_attn": True})
        assert furthest(plain(row[0]), expected) > 1e-2


@pytest.mark.parametrize("cuts", [(10, 30, 1, 1), (40, 1, 1, 30), (20, *(1,) * 30), (16, 1, 1)], ids=str)
def test_what_is_cached_keeps_its_base(both: Both, cuts: tuple[int, ...]) -> None:
    """The first call's length settles the base; whatever comes later is turned with it."""
    row, theirs, cache = ids(1, sum(cuts)), both.definition(), both.model.new_cache()
    for piece in row.split(cuts, dim=1):
        assert close(both.model(piece, cache=cache).logits[0], theirs(piece[0]))
    assert theirs.alpha == growth(cuts[0], TRAINED)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_row_of_a_batch_has_its_own_length(both: Both, side: str) -> None:
    """Rows with three different bases, padded, then continued one by one; batch order does not matter."""
    lengths, x = (70, 12, 25), ids(3, 70)
    mask = torch.stack([(torch.arange(70) >= 70 - n) if side == "left" else (torch.arange(70) < n) for n in lengths])
    theirs, cache = [both.definition() for _ in lengths], both.model.new_cache()
    found = both.model(x, mask.long(), positions_of(mask), cache=cache).logits
    for row, real in enumerate(mask):
        assert close(found[row, real], theirs[row](x[row, real]))
    assert len({definition.alpha for definition in theirs}) == 3
    order = torch.tensor([2, 0, 1])
    cache.select(order)
    mask, more = mask[order], ids(3, 3, seed=9)
    for step, piece in enumerate(more.split(1, dim=1)):
        mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.bool)], dim=1)
        positions = torch.tensor([[lengths[row] + step] for row in order])
        found = both.model(piece, mask.long(), positions, cache=cache).logits
        for row, which in enumerate(order):
            assert close(found[row], theirs[which](piece[row]))


def test_a_cache_is_forked_saved_and_begun_again(both: Both, tmp_path: Path) -> None:
    row, more = ids(1, 40), ids(1, 4, seed=9)
    cache = both.model.new_cache()
    both.model(row, cache=cache)
    cache.save(tmp_path / "cache.safetensors")
    copies = [cache.fork(), Cache.load(tmp_path / "cache.safetensors", both.model.new_cache)]
    onward = both.model(more, cache=cache).logits
    for copy in copies:
        assert same(both.model(more, cache=copy).logits, onward)
    cache.crop(40)
    assert same(both.model(more, cache=cache).logits, onward)
    cache.crop(0)
    assert same(both.model(row[:, :9], cache=cache).logits, both.model(row[:, :9], cache=both.model.new_cache()).logits)


def test_generation_is_the_definitions(both: Both) -> None:
    prompt, theirs = ids(1, 20), both.definition()
    expected, step = prompt[0].tolist(), prompt[0]
    for _ in range(20):
        step = theirs(step)[-1:].argmax(-1)
        expected += step.tolist()
    assert both.model.generate(prompt, max_new_tokens=20, do_sample=False)[0].tolist() == expected


def test_the_bases_are_those_of_python_numbers() -> None:
    """Frequencies bit by bit as the published code computes them: α and the base as Python's, the power in float32."""
    rope = UniversalRoPE(Rope(theta=10000.0, scaling=SteppedScaling(context=TRAINED)), head_dim=12)
    for length in (*range(1, 70), 128, 129, 5000):
        base = 10000.0 * growth(length, TRAINED) ** (12 / 10)
        frequencies = 1.0 / (base ** (torch.arange(0, 12, 2).float() / 12))
        angles = torch.outer(torch.arange(length).float(), frequencies)
        cos, sin = rope(torch.arange(length)[None], torch.float32)
        assert same(cos[0, :, :6], angles.cos()) and same(sin[0, :, 6:], angles.sin())


def test_bfloat16_differs_from_its_successor_by_the_rotation_alone() -> None:
    """With tables and products in the model's dtype, the bits are those of transformers' class in bfloat16, too."""
    family = families.find("qwen")
    theirs, n = reference_and_n(family, family.tiny)
    for path in ("table", "product"):
        n = n.replace(f"layers.*.attention.rope.{path}", "model")
    pair = Pair.built(theirs, n, dtype=torch.bfloat16, seed=0)
    drawn = sample(n.d_vocab, length=90, batch=3, seed=0)
    with torch.no_grad():
        for mode, run in MODES.items():
            assert compare(run(pair.reference, drawn), run(Ours(pair.model), drawn)).equal, mode


def test_bfloat16_turns_in_float32(both: Both) -> None:
    """Positions late in a long text: tables rounded to half precision would lose them."""
    rope, query = both.model.plan.ropes[0], torch.randn(1, 4, 70, 12, dtype=torch.bfloat16)
    found, _ = rope.rotate(query, query, tables := rope(torch.arange(70)[None], torch.bfloat16))
    cos, sin = (table[:, None] for table in tables)
    assert cos.dtype == torch.float32
    wide = query.float()
    assert same(found, (wide * cos + torch.cat([-wide[..., 6:], wide[..., :6]], -1) * sin).bfloat16())
    half = UniversalTransformer(both.model.n)
    half.load_state_dict(both.model.state_dict())
    logits = half.to(torch.bfloat16)(ids(1, 70)).logits
    assert logits.dtype == torch.bfloat16
    assert furthest(logits[0].double(), both.definition()(ids(1, 70)[0])) < 0.1


def test_it_is_one_graph(both: Both) -> None:
    for length in (9, 70):
        torch._dynamo.reset()
        graph = torch.compile(both.model, fullgraph=True, backend="eager")
        assert same(graph(ids(2, length)).logits, both.model(ids(2, length)).logits)


def test_counts_and_formula(both: Both) -> None:
    cache = both.model.new_cache()
    both.model(ids(1, 20), cache=cache)
    count = both.model.n.count(context=20, dtype="float32")
    assert cache.nbytes == count.fixed_state_bytes + 20 * count.cache_bytes_per_token
    assert count.parameters == sum(weight.numel() for weight in both.model.parameters())
    text = str(both.model.n.formula())
    assert "stepped scaling from 16" in text and "log₁₆(t + 1)" in text


def test_names_are_the_published_ones(both: Both, tmp_path: Path) -> None:
    layer = "transformer.h.1"
    of_layer = {"ln_1.weight", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "ln_2.weight"}
    of_layer |= {"mlp.w1.weight", "mlp.w2.weight", "mlp.c_proj.weight"}
    assert {name for name in both.tensors if name.startswith(layer)} == {f"{layer}.{name}" for name in of_layer}
    assert {"transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"} <= both.tensors.keys()
    both.model.save_pretrained(tmp_path / "saved")
    saved = tensors_of(tmp_path / "saved")
    assert saved.keys() == both.tensors.keys()
    assert all(same(saved[name].double(), tensor) for name, tensor in both.tensors.items())


QWEN_7B: dict[str, Any] = {
    "architectures": ["QWenLMHeadModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "initializer_range": 0.02,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 32768,
    "model_type": "qwen",
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "transformers_version": "4.32.0",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 151936,
}
QWEN_7B_OLDER: dict[str, Any] = {
    "model_type": "qwen",
    "attn_pdrop": 0.0,
    "bf16": False,
    "fp16": False,
    "fp32": False,
    "bias_dropout_fusion": True,
    "bos_token_id": 151643,
    "embd_pdrop": 0.0,
    "eos_token_id": 151643,
    "ffn_hidden_size": 22016,
    "initializer_range": 0.02,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "n_embd": 4096,
    "n_head": 32,
    "n_layer": 32,
    "n_positions": 8192,
    "no_bias": True,
    "onnx_safe": None,
    "padded_vocab_size": 151936,
    "params_dtype": "torch.bfloat16",
    "pos_emb": "rotary",
    "resid_pdrop": 0.1,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
    "tokenizer_type": "QWenTokenizer",
    "transformers_version": "4.31.0",
    "use_cache": True,
    "use_flash_attn": "auto",
    "vocab_size": 151936,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
}


@pytest.mark.parametrize(("raw", "trained"), [(QWEN_7B, 8192), (QWEN_7B_OLDER, 2048)], ids=["later", "older"])
def test_published_configs(raw: dict[str, Any], trained: int) -> None:
    n = ArchitectureParameter.from_huggingface(raw)
    assert (n.d_hidden, n.num_layers, n.num_heads, n.num_kv_heads, n.head_dim) == (4096, 32, 32, 32, 128)
    assert (n.d_feed_forward, n.d_vocab, n.rope_base, n.ln_eps) == (11008, 151936, 1e4, 1e-6)
    assert n.rope_scaling == SteppedScaling(context=trained)
    assert n.layers[0].steps[0].branches[0].part.log_scale == trained  # type: ignore[union-attr]
    assert n.count().parameters == 7_721_324_544
    assert n.to_huggingface() == raw


OLD = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "ffn_hidden_size": "intermediate_size",
    "padded_vocab_size": "vocab_size",
}


def test_both_spellings_are_one_n() -> None:
    raw = {"model_type": "qwen", "seq_length": 2048, "hidden_size": 64, "num_hidden_layers": 3, "kv_channels": 16}
    raw |= {"num_attention_heads": 4, "max_position_embeddings": 6144, "intermediate_size": 352, "vocab_size": 97}
    older = {old: raw[new] for old, new in OLD.items()}
    older |= {"model_type": "qwen", "seq_length": 2048, "kv_channels": 16, "pos_emb": "rotary", "resid_pdrop": 0.1}
    n = ArchitectureParameter.from_huggingface(raw)
    assert ArchitectureParameter.from_huggingface(older) == n
    assert (n.d_feed_forward, n.text.context) == (176, 6144)


@pytest.mark.parametrize(
    ("key", "value"), [("kv_channels", 64), ("use_cache_quantization", True), ("pos_emb", "learned"), ("n_inner", 9)]
)
def test_what_the_published_code_does_not_mean_is_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfig, match=key):
        ArchitectureParameter.from_huggingface({"model_type": "qwen", key: value})
