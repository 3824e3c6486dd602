"""Every kind of contradiction is refused, naming the field, its value and what would be allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pieces import bare_rms, rms
from small import NORM, attention, experts, feed_forward, layer, refused, small, stepped

from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.architecture.ends import Embedding, PerLayerEmbedding, Register
from nexus_universal.architecture.feed_forward import ExpertGroups, RoutedAttention, Router
from nexus_universal.architecture.mixers import (
    CompressedAttention,
    LatentAttention,
    OutputGate,
    Packed,
    QueryKeyNorm,
    ReusedIndices,
    SparseIndexer,
)
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import ByLayer, Part
from nexus_universal.architecture.position import Alibi, DynamicScaling, Norm, Rope
from nexus_universal.architecture.program import (
    residual_step,
)
from nexus_universal.architecture.recurrences import GatedDeltaRule, StateSpace
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK


def mixer(**fields: Any) -> ArchitectureParameter:
    return small(layer(attention(**fields)))


def network(part: Part) -> ArchitectureParameter:
    return small(layer(network=part))


LATENT = {
    "heads": 4,
    "query_rank": 8,
    "latent_rank": 8,
    "nope_dim": 4,
    "rope_dim": 4,
    "value_dim": 4,
    "latent_norm": NORM,
}
STATE = {"heads": 4, "head_dim": 8, "state_dim": 8, "groups": 2, "convolution": 4, "norm": NORM}
DELTA = {"key_heads": 2, "value_heads": 4, "key_dim": 8, "value_dim": 8, "convolution": 4, "norm": NORM}
INDEXER = SparseIndexer(heads=2, head_dim=8, keep=4, key_norm=NORM)


def latent(**fields: Any) -> ArchitectureParameter:
    return small(layer(LatentAttention(**{**LATENT, **fields})))


def state(**fields: Any) -> ArchitectureParameter:
    return small(layer(StateSpace(**{**STATE, **fields})))


def delta(**fields: Any) -> ArchitectureParameter:
    return small(layer(GatedDeltaRule(**{**DELTA, **fields})))


def routed_attention(**fields: Any) -> ArchitectureParameter:
    router = Router(score="softmax_chosen", normalise=False)
    plain = {"experts": 3, "per_token": 2, "kv_heads": 2, "head_dim": 8, "router": router}
    return small(layer(RoutedAttention(**{**plain, **fields})))


def compressed(**fields: Any) -> ArchitectureParameter:
    plain = {"heads": 4, "head_dim": 8, "query_rank": 6, "window": 4, "rope": Rope(theta=1e4), "latent_norm": NORM}
    return small(layer(CompressedAttention(**{**plain, "output_groups": 2, "output_rank": 3, **fields})))


def routed(**fields: Any) -> ArchitectureParameter:
    return network(experts(router=Router(**{"score": "softmax", "normalise": True, **fields})))


def weighed(**fields: Any) -> ArchitectureParameter:
    router = Router(score="sigmoid_masked_chosen", normalise=False, weights="model")
    return network(experts(weighs="inputs", router=router, **fields))


PER_LAYER: dict[str, Any] = {
    "vocab": 97,
    "width": 24,
    "per_layer": PerLayerEmbedding(vocab=97, width=8, norm=NORM),
}

CASES: dict[str, tuple[ArchitectureParameter, tuple[str, ...]]] = {
    "type": (mixer(heads="4"), ("layers.0.attention.heads = '4' must be int",)),
    "bool is no int": (mixer(heads=True), ("heads = True must be int",)),
    "int is no bool": (mixer(sinks=1), ("sinks = 1 must be bool",)),
    "enumeration": (
        small(final_norm=Norm(kind="rsm", eps=1.0)),
        ("final_norm.kind = 'rsm' must be one of 'rms', 'layer'",),
    ),
    "optional": (mixer(window=2.5), ("window = 2.5 must be int or None",)),
    "tuple": (mixer(biases=["query"]), ("biases = ['query'] must be a tuple of one of 'query', 'key'",)),
    "entry of a tuple": (mixer(biases=("qurey",)), ("biases = ('qurey',) must be a tuple",)),
    "part": (mixer(rope=NORM), ("rope = Norm(", "must be Rope or None")),
    "not a number": (mixer(scale=math.nan), ("scale = nan must be float",)),
    "zero": (small(embedding=Embedding(vocab=0, width=24)), ("embedding.vocab = 0 must be at least 1",)),
    "negative": (mixer(window=-1), ("window = -1 must be at least 1",)),
    "norm eps": (small(final_norm=Norm(kind="rms", eps=-1.0)), ("final_norm.eps = -1.0 must not be negative",)),
    "norm rounding": (
        small(final_norm=Norm(kind="rms", eps=1.0, rounding="native_float32", scale="none")),
        ("'native_float32' is 'native_float32' for kind = 'layer' only",),
    ),
    "norm kernel": (
        small(final_norm=Norm(kind="rms", eps=1.0, rounding="native", scale="one_plus_weight")),
        ("final_norm.scale = 'one_plus_weight' must be 'weight' or 'none'",),
    ),
    "norm bias": (small(final_norm=Norm(kind="rms", eps=1.0, scale="none", bias=True)), ("bias = True needs a scale",)),
    "nothing left to be last": (
        mixer(rope=Rope(theta=1e4, part_rotated="last")),
        ("rope.part_rotated = 'last' is 'last' only where a part is rotated",),
    ),
    "an unread register": (small(registers=(Register(name="m"),)), ("registers = 'm' is read by no layer",)),
    "an unread table": (
        small(embedding=Embedding(vocab=97, width=24, per_layer=PerLayerEmbedding(vocab=97, width=8, norm=NORM))),
        ("embedding.per_layer", "must be None: no layer reads it"),
    ),
    "choices for other tokens": (
        routed(by_token=5),
        ("feed_forward.router.by_token = 5 must equal embedding.vocab = 97",),
    ),
    "rope theta": (mixer(rope=Rope(theta=0.0)), ("rope.theta = 0.0 must be positive",)),
    "rope fraction": (mixer(rope=Rope(theta=1e4, fraction=1.5)), ("rope.fraction = 1.5 must lie in (0, 1]",)),
    "when over width": (
        mixer(qk_norm=QueryKeyNorm(norm=rms(), over="width", when="after_rope")),
        ("qk_norm.when = 'after_rope' must be 'before_rope' where over = 'width'",),
    ),
    "odd rotation": (mixer(rope=Rope(theta=1e4, fraction=0.4)), ("rope.fraction", "rotates 3 dimensions")),
    "rule": (mixer(scale=ByLayer(rule="add", value=1.0)), ("scale.rule = 'add' must be one of 'divide', 'multiply'",)),
    "padding row": (
        small(embedding=Embedding(vocab=97, width=24, padding_row=97)),
        ("embedding.padding_row = 97 must lie in [0, 97)",),
    ),
    "scale without scale": (
        small(embedding=Embedding(vocab=97, width=24, scale_inputs=True)),
        ("scale = None is None, but",),
    ),
    "heads": (mixer(kv_heads=3), ("kv_heads = 3 must divide heads = 4",)),
    "kernel": (mixer(sinks=True), ("kernel = 'sdpa' must be 'eager'",)),
    "gate bias": (mixer(biases=("gate",)), ("biases = ('gate',) names 'gate', but gate = None",)),
    "gate packing": (
        mixer(packing=(Packed(roles=("query", "gate")),)),
        ("packing", "names 'gate', of which there is none"),
    ),
    "unknown role": (
        mixer(packing=(Packed(roles=("query", "beta")),)),
        ("names 'beta' (known: query, key, value, relative, gate, sink)",),
    ),
    "role twice": (mixer(packing=(Packed(roles=("query", "query")),)), ("packing", "names a role twice")),
    "half a bias": (
        mixer(packing=(Packed(roles=("query", "key")),), biases=("query",)),
        ("biases = ('query',) must name all or none of query, key",),
    ),
    "value bias of a key": (
        mixer(value_is_key=True, biases=("value",)),
        ("biases", "names 'value', which has no projection"),
    ),
    "value packed of a key": (
        mixer(value_is_key=True, packing=(Packed(roles=("key", "value")),)),
        ("packing", "names 'value', which has no projection"),
    ),
    "reuse and emit": (mixer(emit="a", reuse="b"), ("emit = 'a' must be None: reuse takes finished keys and values",)),
    "reuse and norm": (mixer(value_norm=NORM, reuse="b"), ("value_norm = Norm(", "must be None: reuse")),
    "reuse of nothing": (mixer(reuse="b"), ("layers.0.attention.reuse = 'b' must be emitted by an earlier layer",)),
    "reuse of another shape": (
        small(layer(attention(emit="a")), layer(attention(reuse="a", head_dim=4))),
        ("layers.1.attention.head_dim = 4 must be 8, as where 'a' is emitted",),
    ),
    "reuse over a wider window": (
        small(layer(attention(emit="a", window=4)), layer(attention(reuse="a", window=5))),
        ("layers.1.attention.window = 5 must be 4",),
    ),
    "reuse of another kind": (
        small(layer(attention(emit="a")), layer(LatentAttention(**LATENT, indexer=ReusedIndices(reuse="a")))),
        ("layers.1.attention.indexer.reuse = 'a' is emitted by a Attention",),
    ),
    "indices of nothing": (latent(indexer=ReusedIndices(reuse="a")), ("layers.0.attention.indexer.reuse = 'a'",)),
    "indexer without queries": (latent(query_rank=None, indexer=INDEXER), ("query_rank = None must not be None",)),
    "bias of no projection": (latent(query_rank=None, biases=("query_down",)), ("biases", "but query_rank = None")),
    "yarn": (latent(scale_by_yarn=True), ("scale_by_yarn = True needs rope.scaling = YarnScaling(…)",)),
    "delta activation": (delta(activation="sigmoid"), ("activation = 'sigmoid' must be 0 at 0",)),
    "delta heads": (delta(key_heads=3), ("key_heads = 3 must divide value_heads = 4",)),
    "low rank": (delta(low_rank=4), ("low_rank = 4 must be None where decay = 'head'",)),
    "state groups": (state(groups=3), ("groups = 3 must divide heads = 4",)),
    "state norm groups": (state(norm_groups=5), ("norm_groups = 5 must divide heads · head_dim = 32",)),
    "state norm": (state(norm=None, norm_first=True), ("norm = None is None, but norm_groups or norm_first is set",)),
    "state scales": (state(input_scales=(1.0, 2.0)), ("input_scales = (1.0, 2.0) must hold five numbers",)),
    "time step": (state(time_step=(0.1, 0.1)), ("time_step = (0.1, 0.1) must be (lowest, highest)",)),
    "one time step": (state(time_step=(0.1,)), ("time_step = (0.1,) must be a tuple of float",)),
    "gate scale": (network(feed_forward(gated=False, gate_scale=2.0)), ("gate_scale = 2.0 needs gated = True",)),
    "no gate": (
        network(feed_forward(gated=False, biases=("gate",))),
        ("biases = ('gate',) names 'gate', but gated = False",),
    ),
    "packed gate": (network(feed_forward(gated=False, packing=(Packed(roles=("gate", "up")),))), ("(known: up)",)),
    "too many": (network(experts(per_token=7)), ("per_token = 7 must not exceed the number of experts = 6",)),
    "identity counts": (network(experts(per_token=9, identity_experts=2)), ("per_token = 9 must not exceed", "= 8")),
    "no shared expert": (network(experts(shared_gate=True)), ("shared_gate = True needs a shared expert",)),
    "packed experts": (
        network(experts(expert=feed_forward(packing=(Packed(roles=("gate", "up")),)))),
        ("expert.packing", "must be empty"),
    ),
    "too many attentions": (routed_attention(per_token=4), ("per_token = 4 must not exceed experts = 3",)),
    "packed queries": (
        routed_attention(packing=(Packed(roles=("query", "key")),)),
        ("packing", "names 'query' (known: key, value)"),
    ),
    "overlap of nothing": (compressed(overlap=True), ("rate = None is None, but overlap and indexer",)),
    "indexer of nothing": (compressed(indexer=INDEXER), ("rate = None is None, but overlap and indexer",)),
    "output groups": (compressed(output_groups=3), ("output_groups = 3 must divide heads = 4",)),
    "latent bias": (network(experts(latent_bias=True)), ("latent_bias = True needs latent",)),
    "sum epsilon": (routed(normalise=False, sum_epsilon=1e-9), ("sum_epsilon = 1e-09 needs normalise = True",)),
    "sums to one": (routed(score="softmax_chosen"), ("normalise = True must be False",)),
    "nothing to select": (routed(by_token=97, selection_bias=True), ("selection_bias = True must be False",)),
    "rounded weights": (routed(weights="rounded"), ("weights = 'rounded' must be 'model'",)),
    "widened softmax": (routed(logits="widened"), ("logits = 'widened' must be 'model' or 'float32'",)),
    "scores": (routed(score="sigmoid", scores="model"), ("scores = 'model' must be 'float32'",)),
    "no tolerance": (routed(score="sparse_mixer", normalise=False), ("tolerance = None must be given",)),
    "tolerance": (routed(tolerance=0.1), ("tolerance = 0.1 must be given for score = 'sparse_mixer'",)),
    "mixed sparsely": (
        routed(score="sparse_mixer", tolerance=0.1),
        ("score = 'sparse_mixer' is 'sparse_mixer' without",),
    ),
    "norm of weights": (routed(normalise=False, total="norm"), ("total = 'norm' must be 'sum'",)),
    "weighed inputs": (weighed(sum_order="expert"), ("weighs = 'inputs' is 'inputs' with",)),
    "wide weights": (network(experts(weighs="inputs")), ("router.weights = 'float32' must be the model's dtype",)),
    "stacks": (weighed(stacks="apart"), ("stacks = 'apart' must be 'joined'",)),
    "wide rows": (
        small(embedding=Embedding(**PER_LAYER, dtype="float32")),
        ("dtype = 'float32' must be 'model' beside per_layer",),
    ),
    "kept otherwise": (
        small(layer(attention(emit="a", window=4, keeps="all")), layer(attention(reuse="a", window=4))),
        ("layers.1.attention.keeps = 'window' must be all, as where 'a' is emitted",),
    ),
    "call of nothing": (network(experts(shared_call="first")), ("shared_call = 'first' must be 'last'",)),
    "divisor": (network(experts(divisor=0.0)), ("divisor = 0.0 must not be zero",)),
    "product": (network(feed_forward(gated=False, product="float32")), ("product = 'float32' must be 'model'",)),
    "chunks": (mixer(chunked=True), ("chunked = True needs a window",)),
    "no sinks": (mixer(kernel="eager_wide_sinks"), ("kernel = 'eager_wide_sinks' is 'eager_wide_sinks' with sinks",)),
    "norm of rows": (
        small(embedding=Embedding(vocab=9, width=8, norm=NORM, norm_first=True)),
        ("norm_first = True must be False where nothing",),
    ),
    "wide biases": (
        mixer(kernel="eager_fused", alibi=Alibi(rounding="none")),
        ("rounding = 'none' must not be 'none' for a fused kernel",),
    ),
    "shifted": (mixer(kernel="eager_shifted", sinks=True), ("kernel = 'eager_shifted' is 'eager_shifted' without",)),
    "gate of all norms": (
        mixer(qk_norm=QueryKeyNorm(norm=Norm(kind="layer", eps=1e-5, gate_rank=4))),
        ("gate_rank = 4 needs kind = 'rms'",),
    ),
    "joint gate": (latent(joint_gate=True), ("joint_gate = True needs a gate",)),
    "joint gate of heads": (
        latent(joint_gate=True, gate=OutputGate(per="head")),
        ("joint_gate = True needs query_rank",),
    ),
    "zeroed": (
        routed(groups=ExpertGroups(count=3, keep=1, by="best", zeroed=True)),
        ("groups.zeroed = True must be False where by = 'best'",),
    ),
    "head bias": (mixer(gate=OutputGate(per="head", head_bias=True)), ("head_bias = True must be False",)),
    "input scale": (routed(input_scale=True), ("input_scale = True needs input_norm",)),
    "groups": (routed(groups=ExpertGroups(count=3, keep=1)), ("groups", "by 'best' without")),
    "biased groups": (
        routed(groups=ExpertGroups(count=3, keep=1, by="best"), selection_bias=True),
        ("groups", "by 'two_best' with selection_bias"),
    ),
    "groups divide": (
        routed(groups=ExpertGroups(count=4, keep=1), selection_bias=True),
        ("router.groups.count", "must divide experts = 6"),
    ),
    "groups of one": (
        routed(groups=ExpertGroups(count=6, keep=4), selection_bias=True),
        ("router.groups.count = 6 must leave two of 6 experts in every group",),
    ),
    "groups of attentions": (
        routed_attention(
            router=Router(score="softmax", normalise=True, groups=ExpertGroups(count=2, keep=1, by="best"))
        ),
        ("router.groups.count = 2 must divide experts = 3",),
    ),
    "biases of identities": (
        network(experts(identity_experts=2, expert=feed_forward(biases=("down",)))),
        ("expert.biases = ('down',) must be empty beside identity_experts",),
    ),
    "kept for nothing": (
        mixer(rope=Rope(theta=1e4, product="float32", rounded="kept")),
        ("rope.rounded = 'kept' must be 'all' but for kernel = 'eager_wide'",),
    ),
    "kept entries": (
        compressed(rope=Rope(theta=1e4, product="float32", rounded="kept")),
        ("rope.rounded = 'kept' must be 'all'",),
    ),
    "kept choices": (
        latent(indexer=SparseIndexer(heads=2, head_dim=9, keep=4, key_norm=NORM, rope=Rope(theta=1e4))),
        ("indexer.head_dim = 9 rotates 9 dimensions, which must be even",),
    ),
    "own norms": (
        mixer(qk_norm=QueryKeyNorm(norm=Norm(kind="layer", eps=1e-5, rounding="native"), own=True)),
        ("qk_norm.order = 'positions' must be 'heads' where own weights",),
    ),
    "masked repeats": (
        mixer(dynamic_mask=DynamicMask(keep=3), repeat_first=True),
        ("repeat_first = True must be False where a dynamic_mask",),
    ),
    "sparse window": (
        mixer(sparsity=Strided(stride=4, local=4), window=8),
        ("sparsity = Strided(", "must be None or TopK(…) where there is a window"),
    ),
    "sparse and dynamic": (
        mixer(sparsity=TopK(keys=4), dynamic_mask=DynamicMask(keep=3)),
        ("sparsity = TopK(keys=4) must be None beside an indexer or a dynamic_mask",),
    ),
    "no block": (mixer(sparsity=BlockSparse(block=0)), ("sparsity.block = 0 must be at least 1",)),
    "groups keep": (
        routed(groups=ExpertGroups(count=2, keep=3), selection_bias=True),
        ("groups.keep = 3 must not exceed count = 2",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_refused_by_name(case: str) -> None:
    n, pieces = CASES[case]
    refused(n, *pieces)


def test_parts_that_say_nothing_wrong_pass() -> None:
    for n in (
        mixer(gate=OutputGate(), biases=("gate",), packing=(Packed(roles=("query", "key", "value")),)),
        mixer(sinks=True, kernel="eager", softcap=30.0),
        latent(indexer=INDEXER, biases=("query_down",)),
        state(norm=None),
        state(input_scales=(1.0, 1.0, 1.0, 1.0, 1.0)),
        routed_attention(per_token=3),
        compressed(),
        compressed(rate=4, overlap=True, indexer=INDEXER),
        network(experts(per_token=6)),
        network(experts(per_token=8, identity_experts=2)),
        routed(selection_bias=True, groups=ExpertGroups(count=2, keep=2)),
        routed(selection_bias=True, groups=ExpertGroups(count=3, keep=2), sum_epsilon=1e-20),
        small(final_norm=bare_rms()),
        stepped(residual_step("attention", attention(), norm=rms())),
    ):
        assert n.validate() is n


GROWING = DynamicScaling(factor=2.0, context=8)
AT_LEAST_FOUR = "needs four dimensions to rotate, or more: its base grows by a power d / (d - 2)"


def test_a_rotation_must_turn_whole_pairs() -> None:
    """Of latent attention too, whose rotated part has a width of its own."""
    for rope_dim, rope, expected in (
        (24, Rope(theta=1e4, fraction=0.55), "rope.fraction rotates 13 dimensions, which must be even"),
        (7, Rope(theta=1e4), "rope_dim rotates 7 dimensions, which must be even"),
        (8, Rope(theta=1e4), None),
        (4, Rope(theta=1e4, scaling=GROWING), None),
        (2, Rope(theta=1e4, scaling=GROWING), f"rope.scaling {AT_LEAST_FOUR}"),
    ):
        latent = LatentAttention(
            heads=2,
            query_rank=None,
            latent_rank=8,
            nope_dim=6,
            rope_dim=rope_dim,
            value_dim=6,
            latent_norm=Norm(kind="rms", eps=1e-6),
            rope=rope,
        )
        assert [f"{field} {text}" for field, text in latent.problems()] == ([expected] if expected else [])
