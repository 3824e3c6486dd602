"""Hard types whose mixers and experts are unusual."""

from __future__ import annotations

from pieces import VOCAB, branch, deepseek_experts, layer, pre_norm, rms, swiglu, wide_rms, write

from nexus_universal.architecture.ends import Embedding, Head, Streams
from nexus_universal.architecture.feed_forward import (
    ExpertGroups,
    FeedForward,
    MixtureOfExperts,
    RoutedAttention,
    Router,
)
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention, Packed, SparseIndexer
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, Rope, YarnScaling
from nexus_universal.architecture.program import (
    Adapter,
    HyperConnection,
    Linear,
    Program,
    Read,
    Step,
    Term,
    Write,
    residual_step,
)
from nexus_universal.architecture.recurrences import GatedDeltaRule, LightningAttention, StateSpace


def falcon_h1() -> ArchitectureParameter:
    """Attention beside Mamba-2 behind one norm, and muP multipliers everywhere: x + (m·c₁ + a·c₂)."""
    attention = Attention(heads=4, kv_heads=2, head_dim=6, rope=Rope(theta=1e11), key_scale=0.390625)
    mamba = StateSpace(
        heads=6,
        head_dim=8,
        state_dim=10,
        groups=2,
        convolution=4,
        norm=wide_rms(1e-5),
        norm_groups=2,
        chunk=16,
        input_scales=(0.35, 0.25, 0.36, 0.5, 0.37),
    )
    mixing = Step(
        norm=rms(),
        branches=(branch("mamba", mamba, input_scale=1.25), branch("attention", attention, input_scale=0.875)),
        writes=(write(Term(source="mamba", scale=0.2357), Term(source="attention", scale=0.9375), "x"),),
    )
    feed_forward = FeedForward(width=40, activation="silu", gate_scale=0.8838834764831844, output_scale=0.5859375)
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24, scale=5.656854249492381, padding_row=0),
        layers=3 * (layer(mixing, residual_step("feed_forward", feed_forward, norm=rms())),),
        final_norm=rms(),
        head=Head(tied=False, scale=0.0390625),
    )


def zamba2() -> ArchitectureParameter:
    """Mamba-2 throughout; now and then a shared block over [x ‖ e] whose output t enters the mixer's input only."""
    mamba = StateSpace(
        heads=6,
        head_dim=8,
        state_dim=10,
        groups=2,
        convolution=4,
        norm=rms(),
        norm_groups=2,
        chunk=16,
        time_step=(0.001, float("inf")),
    )
    attention = Attention(heads=4, kv_heads=4, head_dim=12, rope=Rope(theta=1e4), scale=(12 / 2) ** -0.5)
    feed_forward = FeedForward(width=38, activation="gelu", packing=(Packed(roles=("gate", "up")),))
    shared = layer(
        Step(norm=rms(), branches=(branch("attention", attention),), writes=(write("attention"),)),
        Step(norm=rms(), branches=(branch("feed_forward", feed_forward),), writes=(write("feed_forward"),)),
    )
    targets = ("attention.query", "attention.key", "attention.value", "feed_forward.gate_up")
    adapters = tuple(Adapter(target=target, rank=5) for target in targets)

    def hybrid(index: int) -> Program:
        block = branch("shared", shared, share=f"block_{index % 2}", adapters=adapters)
        return layer(
            Step(
                read=Read(registers=("x", "e"), join="concat"),
                branches=(block,),
                writes=(write("shared", register="t"),),
            ),
            Step(
                read=Read(registers=("t",)),
                branches=(branch("linear", Linear()),),
                writes=(write("linear", register="t"),),
            ),
            Step(
                read=Read(registers=("x", "t")),
                norm=rms(),
                branches=(branch("mamba", mamba),),
                writes=(write("x", "mamba"),),
            ),
        )

    plain = pre_norm(rms(), mamba=mamba)
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24, padding_row=0),
        layers=(plain, hybrid(0), plain, plain, hybrid(1), plain, hybrid(2)),
        final_norm=rms(),
        head=Head(tied=True),
    )


def deepseek_v32() -> ArchitectureParameter:
    """Latent attention over the keys that an indexer chose; its rotation pairs halves, the latent's neighbours."""
    yarn = YarnScaling(factor=40.0, original_context=64, mscale=1.0, mscale_all_dim=1.0)
    attention = LatentAttention(
        heads=4,
        query_rank=12,
        latent_rank=10,
        nope_dim=6,
        rope_dim=4,
        value_dim=8,
        latent_norm=rms(1e-6),
        rope=Rope(theta=1e4, pairing="interleaved_to_half", scaling=yarn),
        scale_by_yarn=True,
        indexer=SparseIndexer(
            heads=3,
            head_dim=14,
            keep=7,
            key_norm=Norm(kind="layer", eps=1e-6, bias=True, rounding="native"),
            rope=Rope(theta=1e4, scaling=yarn),
            rope_dim=4,
        ),
    )
    experts = deepseek_experts(
        experts=8, per_token=3, groups=ExpertGroups(count=4, keep=2), scale=2.5, expert=swiglu(16), shared=swiglu(32)
    )
    norm = rms(1e-6)
    dense = pre_norm(norm, attention=attention, feed_forward=swiglu(34))
    sparse = pre_norm(norm, attention=attention, experts=experts)
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24),
        layers=(dense, *3 * (sparse,)),
        final_norm=norm,
        head=Head(tied=False),
    )


def deepseek_v4() -> ArchitectureParameter:
    """Four streams under hyper-connections, one vector as key and value, far positions compressed, experts by id."""
    norm, width, streams = wide_rms(), 24, 4
    near = Rope(theta=1e4, fraction=0.25, pairing="interleaved", part_rotated="last", product="float32")
    yarn = YarnScaling(factor=16.0, original_context=64, attention_factor=1.0)
    far = Rope(
        theta=160000.0, fraction=0.25, pairing="interleaved", part_rotated="last", product="float32", scaling=yarn
    )
    indexer = SparseIndexer(
        heads=3,
        head_dim=8,
        keep=5,
        key_norm=norm,
        rope=Rope(
            theta=160000.0, fraction=0.5, pairing="interleaved", part_rotated="last", product="float32", scaling=yarn
        ),
    )

    def attention(kind: str) -> CompressedAttention:
        rates = {"sliding": {}, "sparse": {"rate": 4, "overlap": True, "indexer": indexer}, "heavy": {"rate": 16}}
        return CompressedAttention(
            heads=4,
            head_dim=16,
            query_rank=12,
            window=9,
            rope=near if kind == "sliding" else far,
            latent_norm=norm,
            output_groups=2,
            output_rank=10,
            **rates[kind],
        )

    def one(kind: str, by_token: bool) -> Program:
        expert = FeedForward(width=18, activation="silu", gate_limit=10.0)
        experts = MixtureOfExperts(
            experts=6,
            per_token=2,
            expert=expert,
            shared=expert,
            router=Router(
                score="sqrt_softplus",
                normalise=True,
                selection_bias=not by_token,
                sum_epsilon=1e-20,
                scale=1.5,
                weights="model",
                order="unsorted",
                by_token=VOCAB if by_token else None,
            ),
        )
        connection = HyperConnection(streams=streams, iterations=20, eps=1e-6, norm_eps=1e-6)
        parts: dict[str, Part] = {"attention": attention(kind), "experts": experts}
        return layer(
            *(
                Step(connection=connection, norm=norm, branches=(branch(name, part),), writes=(write(name),))
                for name, part in parts.items()
            )
        )

    kinds = ("heavy", "heavy", "sparse", "heavy", "sparse", "sliding")
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=width),
        layers=tuple(one(kind, index < 3) for index, kind in enumerate(kinds)),
        final_norm=norm,
        head=Head(tied=False),
        streams=Streams(count=streams, fill="copy", merge="weigh", eps=1e-6, norm_eps=1e-6),
    )


def kimi_linear() -> ArchitectureParameter:
    """Kimi delta attention three times, then latent attention that rotates nothing; one dense layer, then experts."""
    norm = rms()
    delta = GatedDeltaRule(
        key_heads=3,
        value_heads=3,
        key_dim=8,
        value_dim=8,
        convolution=4,
        norm=wide_rms(1e-5),
        gate_activation="sigmoid",
        decay="channel",
        low_rank=8,
    )
    latent = LatentAttention(
        heads=4, query_rank=None, latent_rank=10, nope_dim=6, rope_dim=4, value_dim=9, latent_norm=rms(1e-6)
    )
    experts = deepseek_experts(experts=8, per_token=3, groups=None, scale=2.446, expert=swiglu(16), shared=swiglu(16))
    layers = [
        pre_norm(norm, **{"attention" if full else "delta": latent if full else delta, **feed_forward})
        for index in range(9)
        for full in [index % 4 == 3 or index == 8]
        for feed_forward in [{"feed_forward": swiglu(34)} if index == 0 else {"experts": experts}]
    ]
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24), layers=tuple(layers), final_norm=norm, head=Head(tied=False)
    )


def minimax() -> ArchitectureParameter:
    """Lightning and softmax attention in turn; the residual is the normed input, h = N(x): x = α h + β f(h)."""
    norm, depth = rms(), 4
    lightning = LightningAttention(
        heads=4,
        head_dim=6,
        depth=depth,
        norm=rms(1e-6),
        block=8,
        packing=(Packed(roles=("query", "key", "value"), groups=4),),
    )
    attention = Attention(heads=4, kv_heads=2, head_dim=6, rope=Rope(theta=1e6))
    experts = MixtureOfExperts(
        experts=5, per_token=2, expert=swiglu(30), router=Router(score="softmax", normalise=True)
    )

    def normed(name: str, part: Part, alpha: float, beta: float) -> Step:
        terms = (Term(source="v", scale=alpha), Term(source=name, scale=beta))
        return Step(norm=norm, branches=(branch(name, part),), writes=(Write(terms=terms),))

    def one(index: int) -> Program:
        mixing = normed("attention", attention, 3.5, 1.1) if index % 2 else normed("lightning", lightning, 3.25, 1.2)
        return layer(mixing, normed("experts", experts, 3.75, 1.3))

    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24),
        layers=tuple(one(index) for index in range(depth)),
        final_norm=norm,
        head=Head(tied=False),
    )


def jetmoe() -> ArchitectureParameter:
    """Experts own query and output projections; every chosen one meets all key/value heads: head h mod kv_heads."""
    router = Router(score="softmax_chosen", normalise=False, weights="model")
    attention = RoutedAttention(
        experts=5,
        per_token=2,
        kv_heads=3,
        head_dim=8,
        router=router,
        rope=Rope(theta=1e4),
        packing=(Packed(roles=("key", "value")),),
    )
    experts = MixtureOfExperts(experts=5, per_token=2, expert=swiglu(30), router=router, bias=True, sum_order="expert")
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=26),
        layers=3 * (pre_norm(rms(1e-6), attention=attention, experts=experts),),
        final_norm=rms(1e-6),
        head=Head(tied=True),
    )


def nemotron_h() -> ArchitectureParameter:
    """One part per layer: Mamba-2, attention without positions, a plain network, or experts in a smaller space."""
    norm = wide_rms(1e-5)
    parts: dict[str, dict[str, Part]] = {
        "M": {
            "mamba": StateSpace(
                heads=6,
                head_dim=8,
                state_dim=10,
                groups=3,
                convolution=4,
                norm=rms(),
                norm_groups=3,
                chunk=16,
                time_step=(0.001, float("inf")),
            )
        },
        "*": {"attention": Attention(heads=4, kv_heads=2, head_dim=7)},
        "-": {"feed_forward": FeedForward(width=34, activation="relu_squared", gated=False)},
        "E": {
            "experts": deepseek_experts(
                experts=8,
                per_token=3,
                groups=ExpertGroups(count=2, keep=1),
                scale=2.5,
                expert=FeedForward(width=16, activation="relu_squared", gated=False),
                shared=FeedForward(width=20, activation="relu_squared", gated=False),
                latent=11,
            )
        },
    }
    return ArchitectureParameter(
        embedding=Embedding(vocab=VOCAB, width=24),
        layers=tuple(pre_norm(norm, **parts[letter]) for letter in "MEM-M*EM"),
        final_norm=norm,
        head=Head(tied=False, dtype="float32"),
    )
