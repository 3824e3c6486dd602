"""Hunyuan with experts (Tencent, Hunyuan-A13B): the dense one's attention, experts beside a network of their size."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import hunyuan_v1_dense
from nexus_universal.families.shared import common, dense, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

MLP = f"{names.LAYER}.mlp"


def experts(reader: ConfigReader, plain: FeedForward, depth: int) -> Iterable[MixtureOfExperts]:
    """The experts of each layer; how many a token visits may be listed layer by layer."""
    count = reader.count("num_experts", 1)
    each = reader.take("moe_topk", 1, kinds=(int, list))
    if not isinstance(each, list):
        reader.values["moe_topk"] = [each] * depth
    chosen = reader.names("moe_topk", length=depth, known=range(1, count + 1)) or ()
    router = Router(score="softmax", normalise=True, logits="float32", stored="float32")
    fields = {"experts": count, "expert": plain, "router": router, "shared": plain}
    made = {k: MixtureOfExperts(per_token=k, shared_call="first", **fields) for k in set(chosen)}
    return [made[k] for k in chosen]


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    return dense.decoder(
        reader,
        hunyuan_v1_dense.SIZE,
        norm,
        rope=hunyuan_v1_dense.rope(reader),
        feed_forwards=lambda plain, depth: experts(reader, plain, depth),
        qk_norm=QueryKeyNorm(norm=norm, when="after_rope"),
    )


FAMILY = Family(
    model_type="hunyuan_v1_moe",
    title="Hunyuan (experts)",
    read=read,
    weights=names.weights(
        hunyuan_v1_dense.NORMS,
        names.experts(router=f"{MLP}.gate.wg"),
        names.shared_experts(f"{MLP}.shared_mlp"),
    ),
    aliases={"num_experts_per_tok": "moe_topk", "num_local_experts": "num_experts"},
    irrelevant=hunyuan_v1_dense.FAMILY.irrelevant,
    tiny={**hunyuan_v1_dense.FAMILY.tiny, "intermediate_size": 24, "num_experts": 8, "moe_topk": 3},
    draws={**hunyuan_v1_dense.FAMILY.draws, "num_experts": (8, 5), "moe_topk": (3, 1, [1, 4])},
)
