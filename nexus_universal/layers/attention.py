"""Softmax attention with any number of key/value heads, with or without a window, rotation, norms and gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.indexers import BlockIndexer, PooledIndexer
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.residual_convolution import DynamicConvolution
from nexus_universal.architecture.sparsity import TopK
from nexus_universal.cache import ConvolvedPairState, ConvolvedPairWindowState, KeyValueState, State, WindowState
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.block_indexer import UniversalBlockIndexer
from nexus_universal.layers.blockwise import Blocks
from nexus_universal.layers.call import Call, CallPlan, MaskKind
from nexus_universal.layers.differential import UniversalDifferential
from nexus_universal.layers.dynamic_mask import UniversalDynamicMask
from nexus_universal.layers.kernels import (
    added_eager_attention,
    divided_eager_attention,
    eager_attention,
    fused_attention,
    gated_eager_attention,
    repeat_heads,
)
from nexus_universal.layers.length_limit import LengthLimit
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.masks import Mask
from nexus_universal.layers.norms import HeadNorms, UniversalNorm
from nexus_universal.layers.pooled_indexer import UniversalPooledIndexer
from nexus_universal.layers.relative_bias import Biases, UniversalRelativeBias
from nexus_universal.layers.residual_convolution import UniversalDynamicConvolution, UniversalResidualConvolution
from nexus_universal.layers.support import KeepsFloat32, refuse_unless
from nexus_universal.layers.swift_attention import swift_attention
from nexus_universal.layers.top_keys import top_keys

INDEXERS: dict[type, Callable[..., UniversalPooledIndexer | UniversalBlockIndexer]] = {
    PooledIndexer: UniversalPooledIndexer,
    BlockIndexer: UniversalBlockIndexer,
}


class UniversalAttention(KeepsFloat32):
    """MHA, GQA and MQA by `kv_heads` (arXiv 2305.13245).

    Built from its own part, or from a whole n (then the mixer of layer `layer_index`). Called alone it attends causally
    over its input; inside a model it takes the call's tables, mask and its state.

    Example:
        >>> UniversalAttention(n, layer_index=0)(torch.randn(1, 5, n.d_hidden)).shape
        torch.Size([1, 5, 1024])
    """

    swift = False

    def __init__(
        self,
        part: Any,
        *,
        d_model: int | None = None,
        d_in: int | None = None,
        layer_index: int = 0,
        plan: CallPlan | None = None,
        key: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(part, Attention):
            part, d_model = _mixer_of(part, layer_index)
        assert d_model is not None
        refuse_unless(part, causal=True)
        self.part: Attention = part
        self.plan = plan or CallPlan()
        self.scale = part.softmax_scale(layer_index)
        width, kv_width = part.heads * part.head_dim, part.kv_heads * part.head_dim
        mixed_width = part.heads * part.value_width
        self.joined = part.apart is not None and d_in == 3 * d_model
        d_in = d_model if self.joined else d_in or d_model
        rows = {"query": width}
        if not part.reuse:
            rows |= {"key": kv_width} | ({} if part.value_is_key else {"value": part.kv_heads * part.value_width})
        if part.relative:
            rows["relative"] = part.heads * part.relative.width
        if part.gate:
            rows["gate"] = mixed_width if part.gate.per == "channel" else part.heads
        if part.projected_sinks:
            rows["sink"] = part.heads
        self.project = InputProjections(
            self, rows, d_in=d_in, packing=part.packing, biases=part.biases, late_bias=part.late_bias
        )
        self.output = Linear(mixed_width, d_model, bias="output" in part.biases, late_bias=part.late_bias)
        self.input_norms = None
        if part.apart:
            norms = {role: UniversalNorm.of(part.apart, d_in) for role in ("query", "key", "value")}
            self.input_norms = nn.ModuleDict(norms)
        self.key_convolution = self._convolution(part.head_dim, "key_inputs", d_in)
        self.value_convolution = self._convolution(part.value_width, "value_inputs", d_in)
        self.relative_bias = UniversalRelativeBias(part.relative, heads=part.heads) if part.relative else None
        self.sinks = nn.Parameter(torch.empty(part.heads)) if part.sinks else None
        self.in_float32 = ("sinks",) if part.kernel == "eager_wide_sinks" else ()
        self.gate_head_bias = nn.Parameter(torch.empty(part.heads)) if part.gate and part.gate.head_bias else None
        if part.qk_norm and part.qk_norm.over == "width" and part.packing:
            refuse_unless(part, packing=())
        self.norms_at = None
        if part.qk_norm:
            split = "split" if part.qk_norm.order == "heads" else part.qk_norm.when
            self.norms_at = "width" if part.qk_norm.over == "width" else split
        self.query_norm = self._head_norm(part.heads)
        self.key_norm = None if part.reuse else self._head_norm(part.kv_heads)
        if part.length_limit is not None:
            self.norms_at = "before_rope"
            self.query_norm = LengthLimit(part.length_limit, (part.heads, part.head_dim))
            self.key_norm = LengthLimit(part.length_limit)
        self.value_norm = UniversalNorm.of(part.value_norm, part.value_width) if part.value_norm else None
        self.rope_index = self.plan.rope(part.rope, part.head_dim) if part.rope else None
        self.indexer = None
        if part.indexer:
            self.indexer = INDEXERS[type(part.indexer)](
                part.indexer, d_in=d_in or d_model, heads=part.heads, plan=self.plan, rope_index=self.rope_index
            )
        self.differential = None
        if part.differential:
            self.differential = UniversalDifferential(
                part.differential, head_dim=part.head_dim, layer_index=layer_index
            )
        self.dynamic_mask = None
        if part.dynamic_mask:
            self.dynamic_mask = UniversalDynamicMask(
                part.dynamic_mask, kv_heads=part.kv_heads, value_width=part.value_width
            )
        self.inner_norm = UniversalNorm.of(part.inner_norm, mixed_width) if part.inner_norm else None
        self.growths = [rule for rule in (part.log_scale, part.temperature) if rule is not None]
        self.plan.growths.update(self.growths)
        self.mask_index = self.plan.mask(self._mask_kind(), key)
        if part.relative:
            self.plan.measured.add(self.mask_index)

    def _convolution(
        self, head: int, field: str, d_in: int
    ) -> UniversalResidualConvolution | UniversalDynamicConvolution | None:
        part, heads, where = self.part.convolution, self.part.kv_heads, {"plan": self.plan, "field": field}
        if isinstance(part, DynamicConvolution):
            return UniversalDynamicConvolution(part, channels=heads * head, d_model=d_in, heads=heads, **where)
        return UniversalResidualConvolution(part, d_model=heads * head, **where) if part else None

    def _head_norm(self, heads: int) -> UniversalNorm | None:
        if self.part.qk_norm is None:
            return None
        width = self.part.head_dim * (heads if self.part.qk_norm.over == "width" else 1)
        if not self.part.qk_norm.own:
            return UniversalNorm.of(self.part.qk_norm.norm, width)
        return HeadNorms.of_heads(self.part.qk_norm.norm, (heads, width))

    def _mask_kind(self) -> MaskKind:
        part = self.part
        chosen = part.dynamic_mask or part.indexer or isinstance(part.sparsity, TopK)
        omissible = part.kernel == "sdpa" and not chosen
        form = "additive" if part.kernel.startswith("eager") else "omissible" if omissible else "always"
        pattern = None if isinstance(part.sparsity, TopK) else part.sparsity
        kind = MaskKind(window=part.window, keeps=part.keeps, chunked=part.chunked, form=form, sparsity=pattern)
        return replace(kind, alibi=part.alibi, heads=part.heads, scale=self.scale) if part.alibi else kind

    def new_state(self) -> State | None:
        """An empty state for this mixer; None where it reuses what another keeps."""
        if self.part.reuse:
            return None
        if self.indexer is not None:
            return self.indexer.new_state()
        convolved = self.part.convolution is not None
        if self.part.window is None or self.part.keeps == "all":
            return ConvolvedPairState() if convolved else KeyValueState()
        return (ConvolvedPairWindowState if convolved else WindowState)(self.part.window)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_in"],
        call: Call | None = None,
        state: State | None = None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        call = call or self.plan.begin(x)
        part, read = self.part, self._read(x, call)
        roles = self.project(read)
        query = roles["query"] if part.query_scale is None else roles["query"] * part.query_scale
        query = self._placed(self._by_head(query, self.query_norm), self.query_norm, call, unkept=True)
        for rule in self.growths:
            growth = call.query_growth[rule]
            wide = getattr(rule, "form", "log") != "log"
            query = (query * (growth if wide else growth.type_as(query))).type_as(query)
        if part.contiguous:
            query = query.contiguous()
        if part.convolution:
            roles |= self._convolved(roles, read, call, state)
        key, value = call.emitted[part.reuse] if part.reuse else self._keys_and_values(roles, call, state)
        if part.emit:
            call.emitted[part.emit] = key, value
        mask, bias = call.masks[self.mask_index], None
        if self.relative_bias is not None:
            growth = call.query_growth[part.temperature] if part.temperature else None
            bias = self.relative_bias(roles["relative"], call.distances[self.mask_index], growth)
        if self.indexer is not None:
            assert isinstance(mask, Tensor)
            mask = self.indexer(x, mask, call, state)
        if self.dynamic_mask is not None:
            assert isinstance(mask, Tensor)
            mask = self.dynamic_mask(value, mask, heads=part.heads)
        if isinstance(part.sparsity, TopK):
            assert isinstance(mask, Tensor)
            mask = top_keys(query, key, mask, keep=part.sparsity.keys, scale=self.scale, bias=bias)
        if self.differential is None:
            sinks = roles["sink"].transpose(1, 2).unsqueeze(-1) if part.projected_sinks else self.sinks
            mixed = self._attend(query, key, value, mask, bias, sinks)
        else:
            mixed = self.differential(*(self._attend(query, key, v, mask) for v in self.differential.halves(value)))
        if part.gate:
            mixed = self._gated(mixed, roles["gate"])
        mixed = mixed.reshape(*x.shape[:-1], -1)
        return self.output(mixed if self.inner_norm is None else self.inner_norm(mixed))

    def _read(self, x: Float[Tensor, "batch seq d_in"], call: Call) -> Tensor | dict[str, Tensor]:
        """What the roles are projected of: x, or each one's own."""
        if self.input_norms is None:
            return x
        given = x.chunk(3, dim=-1) if self.joined else (x, x, x)
        normed = zip(self.input_norms.items(), given, strict=True)
        read: dict[str, Tensor] = {role: norm(each).to(call.dtype) for (role, norm), each in normed}
        return read | dict.fromkeys(("relative", "gate", "sink"), read["query"])

    def _convolved(
        self, roles: dict[str, Tensor], read: Tensor | dict[str, Tensor], call: Call, state: State | None
    ) -> dict[str, Tensor]:
        """Keys and values behind their convolutions."""
        pair = {"key": self.key_convolution, "value": self.value_convolution}
        if not isinstance(self.part.convolution, DynamicConvolution):
            return {role: module(roles[role], call, state) for role, module in pair.items() if module}
        sources = {role: read if isinstance(read, Tensor) else read[role] for role in pair}
        return {role: module(roles[role], sources[role], call, state) for role, module in pair.items() if module}

    def _clipped(self, role: Float[Tensor, "batch seq *rows"]) -> Float[Tensor, "batch seq *rows"]:
        """Queries, keys or values within the clip's bounds."""
        bound = self.part.clip
        return role if bound is None else role.clamp(min=-bound, max=bound)

    def _by_head(
        self, role: Float[Tensor, "batch seq *rows"], norm: nn.Module | None
    ) -> Float[Tensor, "batch seq heads head_dim"]:
        """Queries or keys by head, behind a norm over the whole width and the clip."""
        if norm is not None and self.norms_at == "width":
            role = norm(role)
        return self._clipped(role).reshape(*role.shape[:2], -1, self.part.head_dim)

    def _placed(
        self,
        heads: Float[Tensor, "batch seq heads head_dim"],
        norm: nn.Module | None,
        call: Call,
        times: int = 1,
        unkept: bool = False,
    ) -> Float[Tensor, "batch repeated seq head_dim"]:
        """Queries or keys normed and rotated, each head `times` times."""
        if norm is not None and self.norms_at == "before_rope":
            heads = norm(heads)
        heads = _repeated(heads, times).transpose(1, 2)
        if norm is not None and self.norms_at == "split":
            heads = norm(heads)
        if self.rope_index is not None:
            rope = self.plan.ropes[self.rope_index]
            wide = unkept and rope.part.rounded == "kept"
            heads = rope.turned(heads, call.tables[self.rope_index], wide=wide)
        return norm(heads) if norm is not None and self.norms_at == "after_rope" else heads

    def _keys_and_values(self, roles: dict[str, Tensor], call: Call, state: State | None) -> tuple[Tensor, Tensor]:
        """What the queries of this call may look at, its own keys and values last."""
        part = self.part
        # A cache holds each head once: repeating behind it gives the same bits.
        times = part.heads // part.kv_heads if part.repeat_first and state is None else 1
        heads = self._by_head(roles["key"], self.key_norm)
        key = self._placed(
            heads if part.key_scale is None else heads * part.key_scale,
            self.key_norm,
            call,
            times,
            unkept=state is None,
        )
        value = heads
        if not part.value_is_key:
            value = self._clipped(roles["value"]).reshape(*heads.shape[:2], -1, part.value_width)
        if self.value_norm is not None:
            value = self.value_norm(value)
        value = _repeated(value, times).transpose(1, 2)
        if part.value_scale is not None:
            value = value * part.value_scale
        if part.contiguous:
            key, value = key.contiguous(), value.contiguous()
        if state is None:
            return key, value
        assert isinstance(state, KeyValueState)
        return state.extend(key, value)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Mask | Blocks | None,
        bias: Biases | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        part = self.part
        if part.kernel in ("eager", "eager_rounded", "eager_shifted", "eager_wide_sinks"):
            assert isinstance(mask, Tensor)
            return eager_attention(
                query,
                key,
                value,
                mask=mask,
                scale=self.scale,
                softcap=part.softcap,
                sinks=sinks,
                bias=bias,
                softmax=torch.float32 if part.kernel == "eager" else None,
                shifted=part.kernel == "eager_shifted" or (part.kernel == "eager" and part.sinks),
                wide=part.kernel == "eager_wide_sinks",
            )
        if part.kernel == "eager_gated":
            assert isinstance(mask, Tensor) and self.sinks is not None
            return gated_eager_attention(query, key, value, mask=mask, scale=self.scale, sinks=self.sinks)
        if part.kernel in ("eager_fused", "eager_fused_rounded"):
            assert isinstance(mask, Tensor)
            softmax = torch.float32 if part.kernel == "eager_fused" else None
            return added_eager_attention(query, key, value, mask=mask, scale=self.scale, softmax=softmax)
        if part.kernel in ("eager_divided", "eager_wide"):
            assert isinstance(mask, Tensor)
            wide = part.kernel == "eager_wide"
            return divided_eager_attention(query, key, value, mask=mask, scale=self.scale, wide=wide)
        if part.repeat_first:
            key, value = (repeat_heads(role, part.heads // role.shape[1]) for role in (key, value))
        broadcast = part.kernel == "sdpa_masked"
        attend = swift_attention if self.swift else fused_attention
        return attend(query, key, value, mask=mask, scale=self.scale, broadcast=broadcast, bias=bias)

    def _gated(self, mixed: Float[Tensor, "batch seq heads d"], gate: Tensor) -> Tensor:
        assert self.part.gate is not None
        lead, wide = mixed.shape[:2], self.part.gate.wide
        gate = gate.reshape(*lead, -1)
        if self.gate_head_bias is not None:
            gate = gate.view_as(mixed) + self.gate_head_bias[:, None]
        opened = ACTIVATIONS[self.part.gate.activation](gate if wide == "none" else gate.float())
        opened = opened.to(mixed.dtype) if wide == "activation" else opened
        if self.part.gate.per == "head":
            opened = opened.unsqueeze(-1)
        elif self.gate_head_bias is None:
            mixed = mixed.reshape(*lead, -1)
        return (mixed * opened).to(mixed.dtype)


def _repeated(role: Float[Tensor, "batch seq kv_heads d"], times: int) -> Float[Tensor, "batch seq heads d"]:
    return role if times == 1 else role.unsqueeze(3).expand(-1, -1, -1, times, -1).flatten(2, 3)


def _mixer_of(n: Any, layer_index: int) -> tuple[Attention, int]:
    """The attention of one layer of a whole n."""
    for branch in n.layers[layer_index].branches():
        if isinstance(branch.part, Attention):
            return branch.part, n.d_hidden
    raise ValueError(f"layer {layer_index} of this n has no softmax attention")
