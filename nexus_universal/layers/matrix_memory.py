"""A matrix per head that is written and forgotten by exponential gates, as a mixer: whole chunks, then steps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import MatrixMemory
from nexus_universal.cache import AveragedState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.linear import InputProjections, Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.recurrent import RecurrentMixer
from nexus_universal.layers.support import refuse_unless

Heads = Float[Tensor, "batch heads seq d"]
Values = Float[Tensor, "batch heads seq d_value"]
Gates = Float[Tensor, "batch heads seq"]
Streams = tuple[Heads, Heads, Values, Gates, Gates]
"""Queries, keys, values, and what opens the input and the forget gate."""

Memory = tuple[
    Float[Tensor, "batch heads keys values"], Float[Tensor, "batch heads keys"], Float[Tensor, "batch heads 1"]
]
"""What was written, the sum of its keys, and the exponent to which both are relative."""


class HeadwiseNorm(UniversalNorm):
    """A LayerNorm of each head whose variance is torch's, in float32, rounded before the weight."""

    def __init__(self, part: Norm, width: int) -> None:
        refuse_unless(part, kind="layer", scale="weight", bias=False, rounding="before_scale", gate_rank=None)
        super().__init__(part, width)

    def forward(self, x: Float[Tensor, "batch seq heads d"]) -> Float[Tensor, "batch seq width"]:
        wide = x.float()
        centred = wide - wide.mean(dim=-1, keepdim=True)
        normed = centred * torch.rsqrt(wide.var(dim=-1, keepdim=True, unbiased=False) + self.eps)
        assert self.weight is not None
        return normed.to(x.dtype).flatten(-2) * self.weight


class UniversalMatrixMemory(RecurrentMixer[AveragedState]):
    """mLSTM (arXiv 2405.04517, 2.3): C ← f C + i k vᵀ, read by q, normed per head and gated."""

    state_kind = AveragedState

    input_gate: Linear
    forget_gate: Linear

    def __init__(self, part: MatrixMemory, *, d_model: int, plan: CallPlan | None = None) -> None:
        super().__init__(plan)
        self.part = part
        keys, values, heads = part.heads * part.key_dim, part.heads * part.value_dim, part.heads
        rows = {"query": keys, "key": keys, "value": values, "gate": values, "input_gate": heads, "forget_gate": heads}
        self.project = InputProjections(self, rows, d_in=d_model, biases=("input_gate", "forget_gate"))
        self.norm = HeadwiseNorm(part.norm, values)
        self.output = Linear(values, d_model, bias=False)

    def start(self, text: Text, *, depth: int) -> None:
        """Input gates all but shut, forget gates open, the more the later the head, whatever x is."""
        found = dict(self.named_parameters())
        for gate in ("input_gate", "forget_gate"):
            nn.init.zeros_(found[f"{gate}.weight"])
        nn.init.constant_(found["input_gate.bias"], -10.0)
        found["forget_gate.bias"].copy_(torch.linspace(3.0, 6.0, self.part.heads))

    def mix(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call, state: AveragedState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        part, (batch, seq) = self.part, x.shape[:2]
        roles = self.project(x)
        query, key, value = (
            roles[name].reshape(batch, seq, part.heads, -1).transpose(1, 2) for name in ("query", "key", "value")
        )
        opened, kept = (
            (part.gate_cap * torch.tanh(roles[name] / part.gate_cap)).transpose(1, 2)
            for name in ("input_gate", "forget_gate")
        )
        if call.padding is not None:  # pads write nothing and forget nothing
            pads = call.padding[:, None, :] == 0
            opened, kept = opened.masked_fill(pads, float("-inf")), kept.masked_fill(pads, float("inf"))
        out, memory = self._read((query, key, value, opened, kept), _begun(state, key, value))
        if state is not None:
            state.recurrent, state.weights, state.exponent = (each.to(x.dtype) for each in memory)
        normed = self.norm(out.transpose(1, 2))
        return self.output(torch.sigmoid(roles["gate"]) * normed)

    def _read(self, streams: Streams, memory: Memory) -> tuple[Values, Memory]:
        """As many whole chunks as there are, then position by position."""
        seq = streams[0].shape[2]
        whole, seen = seq // self.part.chunk * self.part.chunk, []
        if whole:
            out, memory = self._chunks(_cut(streams, slice(0, whole)), memory)
            seen.append(out)
        if whole < seq:
            out, memory = self._steps(_cut(streams, slice(whole, seq)), memory)
            seen.append(out)
        return torch.cat(seen, dim=2), memory

    def _chunks(self, streams: Streams, memory: Memory) -> tuple[Values, Memory]:
        """All chunks at once: pairs inside each, and the memory before it for what came earlier."""
        size = self.part.chunk
        query, key, value, opened, kept = (each.unflatten(2, (-1, size)) for each in streams)
        faded = F.logsigmoid(kept).cumsum(-1)
        (written, keys, exponent), memory = _memories(key, value, opened, faded, memory)
        distance = faded[..., :, None] - faded[..., None, :]
        causal = torch.ones(size, size, dtype=torch.bool, device=query.device).tril()
        pairs = torch.where(causal, distance, -float("inf")) + opened[..., None, :]
        inside, before = torch.max(pairs, dim=-1).values, faded + exponent[..., None]
        top = torch.maximum(before, inside)[..., None]
        shares = torch.exp(pairs - top)
        scale = self.part.key_dim**-0.5
        scores = (query @ key.transpose(-2, -1)) * scale * shares
        asking = query * torch.exp(before[..., None] - top) * scale
        total = asking @ written + scores @ value
        weight = asking @ keys[..., None] + scores.sum(dim=-1, keepdim=True)
        weight = torch.maximum(torch.abs(weight), torch.exp(-top))
        return (total / (weight + self.part.eps)).flatten(2, 3), memory

    def _steps(self, streams: Streams, memory: Memory) -> tuple[Values, Memory]:
        """Position by position, the memory in float32."""
        query, key, value, opened, kept = streams
        written, keys, exponent = (each.to(torch.float32) for each in memory)
        seen = []
        for index in range(query.shape[2]):
            q, k, v = query[:, :, index], key[:, :, index], value[:, :, index]
            admitted, fade = opened[:, :, index, None], F.logsigmoid(kept[:, :, index, None])
            top = torch.max(fade + exponent, admitted)
            left, new = torch.exp(fade + exponent - top), torch.exp(admitted - top)
            q = q * self.part.key_dim**-0.5
            written = left[..., None] * written.clone() + new[..., None] * (k[..., None] @ v[:, :, None, :])
            keys = left * keys.clone() + new * k
            total = (q[:, :, None, :] @ written.to(q.dtype)).squeeze(2).to(torch.float32)
            weight = (q[:, :, None, :] @ keys[..., None].to(q.dtype)).squeeze(2)
            weight = (torch.maximum(weight.abs(), torch.exp(-top)) + self.part.eps).to(torch.float32)
            seen.append((total / weight).to(q.dtype))
            exponent = top
        return torch.stack(seen, dim=-2), (written, keys, exponent)


def _cut(streams: Streams, where: slice) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Some positions of all streams, laid out anew."""
    query, key, value, opened, kept = (each[:, :, where].contiguous() for each in streams)
    return query, key, value, opened, kept


def _begun(state: AveragedState | None, key: Heads, value: Values) -> Memory:
    """What a state holds, or nothing, in the model's dtype."""
    if state is None or state.recurrent is None:
        lead = key.shape[:2]
        shapes = ((*lead, key.shape[-1], value.shape[-1]), (*lead, key.shape[-1]), (*lead, 1))
        written, keys, exponent = (key.new_zeros(shape) for shape in shapes)
        return written, keys, exponent
    assert state.weights is not None and state.exponent is not None
    return state.recurrent, state.weights, state.exponent


def _memories(
    key: Float[Tensor, "batch heads chunks size key"],
    value: Float[Tensor, "batch heads chunks size value"],
    opened: Float[Tensor, "batch heads chunks size"],
    faded: Float[Tensor, "batch heads chunks size"],
    memory: Memory,
) -> tuple[tuple[Tensor, Tensor, Tensor], Memory]:
    """The memory before every chunk, and behind the last."""
    written, keys, exponent = memory[0], memory[1], memory[2].squeeze(-1)
    chunks = key.shape[2]
    # Laid down one by one as they come: stacked at the end their gradients would meet in another order.
    kept = [key.new_zeros(*each.shape[:2], chunks + 1, *each.shape[2:]) for each in (written, keys, exponent)]
    until_end = faded[..., -1, None] - faded + opened
    whole, highest = faded[..., -1], until_end.max(-1).values
    for index in range(chunks):
        for slots, each in zip(kept, (written, keys, exponent), strict=True):
            slots[:, :, index] = each
        top = torch.max(whole[:, :, index] + exponent, highest[:, :, index])
        gated = key[:, :, index] * torch.exp(until_end[:, :, index] - top[..., None])[..., None]
        left = torch.exp(whole[:, :, index] + exponent - top)[:, :, None]
        written = left[..., None] * written + gated.transpose(-2, -1) @ value[:, :, index]
        keys = left * keys + gated.transpose(-2, -1).sum(-1)
        exponent = top
    for slots, each in zip(kept, (written, keys, exponent), strict=True):
        slots[:, :, -1] = each
    before = kept[0][:, :, :-1], kept[1][:, :, :-1], kept[2][:, :, :-1]
    return before, (kept[0][:, :, -1], kept[1][:, :, -1], kept[2][:, :, -1:])
