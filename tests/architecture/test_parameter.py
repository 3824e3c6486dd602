"""The algebra of n: replace, diff, signature, hash, flat view."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
from hard_types import WORKS
from small import NORM, attention, experts, feed_forward, layer, small

from nexus_universal.architecture.ends import Embedding, Head, LearnedPositions, Origin, Text
from nexus_universal.architecture.errors import InvalidArchitecture, UnsupportedConfig
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.position import LinearScaling, Norm, Rope, YarnScaling
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write


def test_replace_gives_a_validated_copy() -> None:
    n = small()
    assert n.replace("layers.*.mixer.window", 4096).replace("layers.*.mixer.window", None) == n
    with pytest.raises(InvalidArchitecture, match=r"layers.0.attention.kv_heads = 3 must divide heads = 4"):
        n.replace("layers.0.attention.kv_heads", 3)


def test_replace_keeps_what_rides_along() -> None:
    n = small(text=Text(context=7), origin=Origin(family="llama")).replace("head.softcap", 30.0)
    assert n.text.context == 7
    assert n.origin.family == "llama"


def test_diff_gathers_layers_that_changed_alike() -> None:
    n = small(*6 * (layer(),))
    other = n.replace("layers.1.attention.window", 8).replace("layers.2.attention.window", 8)
    other = other.replace("layers.5.attention.window", 8).replace("layers.4.attention.window", 9)
    assert [str(change) for change in n.diff(other)] == [
        "layers.1-2,5.attention.window: None → 8",
        "layers.4.attention.window: None → 9",
    ]
    assert [str(change) for change in other.diff(n)] == [
        "layers.1-2,5.attention.window: 8 → None",
        "layers.4.attention.window: 9 → None",
    ]


def test_diff_names_parts_lengths_and_ends() -> None:
    left, right = small(), small(layer(network=experts()), layer(), layer(), head=Head(tied=True, softcap=30.0))
    changes = [str(change) for change in left.diff(right)]
    assert changes[:3] == ["head.tied: False → True", "head.softcap: None → 30.0", "num_layers: 2 → 3"]
    assert "layers.0.feed_forward.is: 'FeedForward' → 'MixtureOfExperts'" in changes
    assert "layers.0.feed_forward.width: 48 → —" in changes
    assert "layers.0.feed_forward.router.score: — → 'softmax'" in changes


def _joined(*names: str) -> Program:
    branches = tuple(Branch(name=name, part=feed_forward()) for name in names)
    terms = tuple(Term(source=name) for name in sorted(names))
    return Program(steps=(Step(branches=branches, writes=(Write(terms=terms),)),))


def test_a_diff_is_empty_only_between_equals() -> None:
    shared = dataclasses.replace(layer(), share="turn")
    programs = [_joined("a", "b", "c"), _joined("a", "c", "b"), _joined("b", "a", "c"), layer(), shared]
    works = [work() for work in WORKS.values()] + [small(program) for program in programs]
    for left in works:
        for right in works:
            assert (left.diff(right) == []) == (left == right)


def test_signature_reads_in_one_line() -> None:
    n = small(*2 * (layer(), layer(attention(window=5)), layer(attention(rope=None), experts(shared=feed_forward()))))
    assert n.signature == (
        "d24 v97 · 2 × [attention 4/2×8 + ffn 48 | attention 4/2×8 w5 + ffn 48 | "
        f"attention 4/2×8 nope + experts 2/6×12+shared] · #{n.hash}"
    )
    assert small(tied=True).signature.startswith("d24 v97 tied · 2 × [attention 4/2×8 + ffn 48] · #")


def test_hash_is_stable_between_processes_and_versions() -> None:
    code = "from small import small; print(small().hash)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert found.stdout.strip() == small().hash == "b1c3999f4951"


def test_the_flat_view_reads_the_commonest_value() -> None:
    rope = Rope(theta=5e5, scaling=LinearScaling(factor=2.0))
    wide = layer(attention(heads=8, kv_heads=1, head_dim=4, rope=rope), feed_forward(width=96, activation="gelu"))
    n = small(wide, wide, layer(), text=Text(bos=1, eos=(2,), use_cache=False))
    assert (n.d_hidden, n.d_vocab, n.num_layers) == (24, 97, 3)
    assert (n.num_heads, n.num_kv_heads, n.head_dim, n.d_feed_forward) == (8, 1, 4, 96)
    assert (n.pos_embedding_type, n.rope_base, n.rope_scaling) == ("rope", 5e5, LinearScaling(factor=2.0))
    assert (n.activation_fn, n.norm_type, n.ln_eps, n.use_bias) == ("gelu", "rms", 1e-6, False)
    assert (n.use_cache, n.bos_token_id, n.eos_token_id) == (False, 1, 2)
    assert small(text=Text(eos=(2, 3))).eos_token_id == [2, 3]
    assert small().eos_token_id is None


def test_the_flat_view_of_what_is_not_there() -> None:
    learned = Embedding(vocab=97, width=24, positions=LearnedPositions(count=32))
    plain = layer(attention(rope=None, biases=("query",)))
    n = small(plain, embedding=learned, final_norm=None)
    assert (n.pos_embedding_type, n.rope_base, n.rope_scaling, n.use_bias) == ("learned", None, None, True)
    assert (n.norm_type, n.ln_eps) == ("rms", None)
    assert small(plain).pos_embedding_type == "none"
    assert small(final_norm=Norm(kind="layer", eps=1e-5)).norm_type == "layer"
    assert small(layer(network=experts())).d_feed_forward == 12


def test_an_n_that_came_from_nowhere_has_no_config() -> None:
    with pytest.raises(UnsupportedConfig, match="was not read from a HuggingFace config"):
        small().to_huggingface()


def test_softmax_scales() -> None:
    assert attention(head_dim=16).softmax_scale(3) == 0.25
    assert attention(scale=0.5).softmax_scale(3) == 0.5
    assert attention(scale=ByLayer(rule="divide", value=2.0)).softmax_scale(3) == 0.5
    assert attention(scale=ByLayer(rule="multiply", value=2.0)).softmax_scale(3) == 8.0
    yarn = YarnScaling(factor=40.0, original_context=64, mscale=0.7, mscale_all_dim=0.7)
    latent = LatentAttention(
        heads=2,
        query_rank=None,
        latent_rank=6,
        nope_dim=12,
        rope_dim=4,
        value_dim=3,
        latent_norm=NORM,
        rope=Rope(theta=1e4, scaling=yarn),
    )
    assert latent.softmax_scale == 0.25
    scaled = dataclasses.replace(latent, scale_by_yarn=True).softmax_scale
    assert scaled == pytest.approx(0.25 * (0.1 * 0.7 * math.log(40) + 1) ** 2)


def test_n_is_frozen_and_hashable() -> None:
    n = small()
    with pytest.raises(dataclasses.FrozenInstanceError):
        n.layers = ()  # type: ignore[misc]
    assert len({n, small(), small(tied=True)}) == 2
    assert isinstance(n, ArchitectureParameter)
    assert NORM in {NORM}
