"""Mixtures of experts: the router, and the chosen experts through one grouped matrix product."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.layers.activations import ACTIVATIONS
from nexus_universal.layers.feed_forward import UniversalFeedForward, gated_product
from nexus_universal.layers.grouped import grouped_linear, sorted_pairs, swift_form
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.support import KeepsFloat32, refuse_unless

SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda logits: torch.softmax(logits, dim=-1, dtype=torch.float32),
    "sigmoid": torch.sigmoid,
    "sqrt_softplus": lambda logits: F.softplus(logits).sqrt(),
}

TOTALS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda weights: weights.sum(dim=-1, keepdim=True),
    "norm": lambda weights: torch.linalg.vector_norm(weights, ord=1, dim=-1, keepdim=True),
}

LATE_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax_chosen": lambda chosen: torch.softmax(chosen, dim=-1),
    "sigmoid_chosen": torch.sigmoid,
}
"""Of the chosen alone."""


class UniversalRouter(KeepsFloat32):
    """Which experts a token visits, and with what weight."""

    table: Int[Tensor, "vocab k"]

    def __init__(self, part: Router, *, d_model: int, experts: int, per_token: int, always: int = 0) -> None:
        super().__init__()
        self.part, self.per_token, self.experts = part, per_token, experts
        self.weight = nn.Parameter(torch.empty(experts + always, d_model))
        if part.by_token:
            self.register_buffer("table", torch.empty(part.by_token, per_token, dtype=torch.long))
        if part.selection_bias:
            self.register_buffer("selection_bias", torch.empty(experts, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(experts + always)) if part.bias else None
        self.norm = UniversalNorm.of(part.input_norm, d_model) if part.input_norm else None
        self.input_scale = nn.Parameter(torch.empty(d_model)) if part.input_scale else None
        self.expert_scale = nn.Parameter(torch.empty(experts)) if part.expert_scale else None
        self.scale = nn.Parameter(torch.empty(1)) if part.learned_scale else None
        kept = {"selection_bias": part.selection_bias, "weight": part.stored == "float32", "scale": part.learned_scale}
        self.in_float32 = tuple(name for name, stays in kept.items() if stays)

    def start(self, text: Text, *, depth: int) -> None:
        """No choice is better than another, where the text says so; a learned scale is 1."""
        if text.zero_routers:
            nn.init.zeros_(self.weight)
        if self.scale is not None:
            nn.init.ones_(self.scale)

    def forward(
        self, x: Float[Tensor, "tokens d_hidden"], token: Int[Tensor, "batch seq"] | None = None
    ) -> tuple[Float[Tensor, "tokens visited"], Int[Tensor, "tokens k"]]:
        """Weights and experts, weights of those that are always visited last; `token` holds the ids of x.

        Raises:
            InputError: the choice is by token, but embeddings were given instead of ids.
        """
        part, x = self.part, x if self.norm is None else self.norm(x)
        if self.input_scale is not None:
            x = x * self.input_scale * x.shape[-1] ** -0.5
        if part.logits == "float32":
            bias = None if self.bias is None else self.bias.type(torch.float32)
            logits = F.linear(x.type(torch.float32), self.weight.type(torch.float32), bias)
        else:
            logits = F.linear(x, self.weight, self.bias)
        logits = logits.float() if part.logits == "widened" else logits
        if part.softcap is not None:
            logits = torch.tanh(logits / part.softcap) * part.softcap
        scores = logits
        if part.scores == "model":
            scores = torch.softmax(logits, dim=-1)
        elif part.score in SCORES:
            scores = SCORES[part.score](logits)
        if part.tolerance is not None:
            weights, chosen = self._one_by_one(logits, part.tolerance)
        elif part.by_token:
            chosen = self._listed(token)
            weights = scores.gather(1, chosen)
        else:
            scores = scores[..., : self.experts] if scores.shape[-1] > self.experts else scores
            choice = scores + self.selection_bias if part.selection_bias else scores  # type: ignore[operator]
            if part.groups:
                choice = self._best_groups(choice)
            best, chosen = torch.topk(choice, self.per_token, dim=-1, sorted=part.order == "sorted")
            weights = scores.gather(1, chosen) if part.selection_bias else best
        if part.score == "sigmoid_masked_chosen":  # of other rows than the chosen alone: a kernel's last bits differ
            masked = torch.full_like(logits, float("-inf")).scatter(1, chosen, weights)
            weights = torch.sigmoid(masked.float()).gather(1, chosen)
        elif part.score in LATE_SCORES:
            weights = LATE_SCORES[part.score](weights if part.weights == "model" else weights.float())
        if part.total == "logs":
            weights = self._by_logs(logits, chosen)
        elif part.normalise:
            total = TOTALS[part.total](weights)
            total = total + part.sum_epsilon if part.sum_epsilon else total
            weights = weights / (total.clamp(min=part.sum_floor) if part.sum_floor else total)
        if part.scale is not None:
            weights = weights * part.scale
        if self.scale is not None:
            weights = weights * self.scale.float()
        if self.expert_scale is not None:
            weights = weights * self.expert_scale[chosen]
        kept = {"float32": weights.dtype, "model": logits.dtype, "rounded": x.dtype}[part.weights]
        return weights.to(kept), chosen

    def _by_logs(
        self, logits: Float[Tensor, "tokens all"], chosen: Int[Tensor, "tokens k"]
    ) -> Float[Tensor, "tokens weighed"]:
        """The shares that sigmoids of the chosen and of those always visited have of their sum."""
        picked = torch.cat([logits[..., : self.experts].gather(-1, chosen), logits[..., self.experts :]], dim=-1)
        logs = F.logsigmoid(picked)
        return torch.exp(logs - torch.logsumexp(logs, dim=-1, keepdim=True))

    def _one_by_one(
        self, logits: Float[Tensor, "tokens experts"], tolerance: float
    ) -> tuple[Float[Tensor, "tokens k"], Int[Tensor, "tokens k"]]:
        """The best expert, then the best of those left; each one's share among the near ones that were left with it."""
        left, weights, chosen = logits, [], []
        for _ in range(self.per_token):
            with torch.no_grad():
                best, index = left.max(dim=-1, keepdim=True)
                far = (best - logits) / logits.abs().clamp(min=best) > tolerance
            weights.append(torch.softmax(left.masked_fill(far, float("-inf")), dim=-1).gather(-1, index))
            chosen.append(index)
            left = left.scatter(-1, index, float("-inf"))
        return torch.cat(weights, dim=-1), torch.cat(chosen, dim=-1)

    def _listed(self, token: Int[Tensor, "batch seq"] | None) -> Int[Tensor, "tokens k"]:
        if token is None:
            raise InputError("inputs_embeds say no ids, by which this model chooses experts: give input_ids")
        return self.table[token.reshape(-1)]

    def _best_groups(self, choice: Float[Tensor, "tokens experts"]) -> Float[Tensor, "tokens experts"]:
        """Experts outside the best groups lose."""
        groups = self.part.groups
        assert groups is not None
        grouped = choice.unflatten(-1, (groups.count, -1))
        counted = 2 if groups.by == "two_best" else 1
        rest = 0.0 if groups.zeroed or groups.by == "best" else float("-inf")
        group_score = grouped.topk(counted, dim=-1)[0].sum(dim=-1)
        kept = torch.topk(group_score, k=groups.keep, dim=-1, sorted=False)[1]
        lost = torch.ones_like(group_score, dtype=torch.bool).scatter_(1, kept, False)
        return grouped.masked_fill(lost.unsqueeze(-1), rest).flatten(-2)


class Experts(nn.Module):
    """All experts' weights in two stacks: gate and up rows [experts, 2·width, d], down [experts, d, width].

    Without a gate, or with gate rows in a stack `apart`, the first holds `width` rows, and is called `up`.
    """

    swift = False

    def __init__(
        self,
        part: FeedForward,
        *,
        d_model: int,
        experts: int,
        identities: int = 0,
        sum_order: str = "chosen",
        stacks: str = "joined",
    ) -> None:
        super().__init__()
        refuse_unless(part, output_scale=None, sparsity=None)
        self.part, self.count, self.identities, self.sum_order = part, experts, identities, sum_order
        self.packed = part.packing[0] if part.packing else Packed(roles=("gate", "up"))
        self.entry, rows = ("gate_up", 2 * part.width) if part.gated and stacks == "joined" else ("up", part.width)
        self.gate = nn.Parameter(torch.empty(experts, rows, d_model)) if stacks == "apart" else None
        bias = nn.Parameter(torch.empty(experts, rows)) if "up" in part.biases else None
        self.register_parameter(self.entry, nn.Parameter(torch.empty(experts, rows, d_model)))
        self.register_parameter(f"{self.entry}_bias", bias)
        self.down = nn.Parameter(torch.empty(experts, d_model, part.width))
        self.down_bias = nn.Parameter(torch.empty(experts, d_model)) if "down" in part.biases else None

    def forward(
        self,
        x: Float[Tensor, "tokens d_hidden"],
        weights: Float[Tensor, "tokens k"],
        chosen: Int[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens d_hidden"]:
        """Sort the (token, expert) pairs by expert, multiply group by group, weigh, sort back, sum over k in order.

        Or sum in the experts' order, without sorting back.
        """
        tokens, per_token = chosen.shape
        runs, loop = self.count + self.identities, self.sum_order == "loop"
        form = swift_form(x.device) if self.swift else "apart" if loop else "kernel"
        if loop:
            weights = weights.T
            expert, order, ends = sorted_pairs(chosen.T, runs, stable=True)
            token = order % tokens
            rows = x[token.flip(0)].flip(0)  # a loop's gradients reach x from the last expert to the first
        else:
            expert, order, ends = sorted_pairs(chosen, runs)
            token = order // per_token
            rows = x[token]
        gate = None if self.gate is None else grouped_linear(rows, self.gate, ends, form=form)
        stack, bias = getattr(self, self.entry), getattr(self, f"{self.entry}_bias")
        joint = grouped_linear(rows, stack, ends, _rows(bias, expert), form=form)
        if gate is None:
            inner = self._activated(joint)
        elif form == "unseen" or torch.compiler.is_compiling():
            inner = gated_product(self.part, gate, joint)
        else:
            inner = self._run_by_run(gate, joint, ends)
        out = grouped_linear(inner, self.down, ends, _rows(self.down_bias, expert), form=form)
        if self.identities:
            out = torch.where((expert < self.count).unsqueeze(-1), out, rows)
        out = out * weights.reshape(-1)[order].unsqueeze(-1)
        if self.sum_order == "expert":
            return torch.zeros_like(x).index_add(0, token, out.to(x.dtype))
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=x.device)
        if loop:
            turn = back.view(per_token, tokens).T.gather(1, chosen.argsort(dim=-1))
            return sum(out.to(x.dtype)[turn].unbind(1), torch.zeros_like(x))
        return out[back].view(tokens, per_token, -1).sum(dim=1).to(x.dtype)

    def all_on_weighed(
        self,
        x: Float[Tensor, "tokens d_hidden"],
        weights: Float[Tensor, "tokens k"],
        chosen: Int[Tensor, "tokens k"],
    ) -> Float[Tensor, "tokens d_hidden"]:
        """Every expert reads every token times its weight, 0 where it is not chosen."""
        scores = weights.new_zeros(x.shape[0], self.count).scatter(1, chosen, weights)
        read = x.repeat(self.count, 1) * scores.T.reshape(-1, 1)
        joint = torch.bmm(read.view(self.count, -1, x.shape[-1]), getattr(self, self.entry).transpose(1, 2))
        out = torch.bmm(self._activated(joint), self.down.transpose(1, 2))
        return out.sum(dim=0)

    def _run_by_run(
        self, gate: Float[Tensor, "pairs width"], up: Float[Tensor, "pairs width"], ends: Int[Tensor, " runs"]
    ) -> Float[Tensor, "pairs width"]:
        """Expert by expert, as a loop does it: the last numbers of a tensor go through a kernel of other last bits."""
        gates, ups = (role.tensor_split(ends[:-1].tolist()) for role in (gate, up))
        return torch.cat([gated_product(self.part, *pair) for pair in zip(gates, ups, strict=True)])

    def _activated(self, joint: Float[Tensor, "*pairs rows"]) -> Float[Tensor, "*pairs width"]:
        if not self.part.gated:
            return ACTIVATIONS[self.part.activation](joint)
        return gated_product(self.part, *self._gate_and_up(joint))

    def _gate_and_up(
        self, joint: Float[Tensor, "*pairs both"]
    ) -> tuple[Float[Tensor, "*pairs width"], Float[Tensor, "*pairs width"]]:
        """Views of the two roles, whose rows lie in the packing's groups."""
        halves = joint.unflatten(-1, (self.packed.groups, -1)).chunk(2, dim=-1)
        roles = dict(zip(self.packed.roles, (half.flatten(-2) for half in halves), strict=True))
        return roles["gate"], roles["up"]


def _rows(bias: Float[Tensor, "experts d_out"] | None, expert: Int[Tensor, " pairs"]) -> Tensor | None:
    """The bias of each pair's expert."""
    return None if bias is None else bias[expert]


class WeighedExperts(nn.Module):
    """Experts that every token visits, each with a weight that multiplies what `down` reads."""

    def __init__(self, part: FeedForward, *, d_model: int, count: int) -> None:
        super().__init__()
        self.part = part
        self.gate = nn.Parameter(torch.empty(count, part.width, d_model))
        self.up = nn.Parameter(torch.empty(count, part.width, d_model))
        self.down = nn.Parameter(torch.empty(count, d_model, part.width))

    def forward(
        self, x: Float[Tensor, "tokens d_hidden"], weights: Float[Tensor, "tokens count"]
    ) -> Float[Tensor, "tokens d_hidden"]:
        rows = x.unsqueeze(0).expand(self.gate.shape[0], -1, -1)
        gate, up = (torch.bmm(rows, stack.transpose(1, 2)) for stack in (self.gate, self.up))
        inner = gated_product(self.part, gate, up) * weights.to(x.dtype).unsqueeze(-1).transpose(0, 1)
        return torch.bmm(inner, self.down.transpose(1, 2)).float().sum(dim=0).to(x.dtype)


class UniversalExperts(nn.Module):
    """Σ weight · expert(x) over the chosen experts, plus the expert that every token visits."""

    def __init__(self, part: MixtureOfExperts, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        choices = part.experts + part.identity_experts
        self.router = UniversalRouter(
            part.router, d_model=d_model, experts=choices, per_token=part.per_token, always=part.always
        )
        self.always = WeighedExperts(part.expert, d_model=d_model, count=part.always) if part.always else None
        self.expert_norm = UniversalNorm.of(part.expert_norm, d_model) if part.expert_norm else None
        self.experts = Experts(
            part.expert,
            d_model=part.latent or d_model,
            experts=part.experts,
            identities=part.identity_experts,
            sum_order=part.sum_order,
            stacks=part.stacks,
        )
        self.bias = nn.Parameter(torch.empty(d_model)) if part.bias else None
        if part.latent:
            self.latent_down = Linear(d_model, part.latent, bias=part.latent_bias)
            self.latent_up = Linear(part.latent, d_model, bias=part.latent_bias)
        if part.shared:
            self.shared = UniversalFeedForward(part.shared, d_model=d_model)
        if part.shared_gate:
            self.shared_gate = Linear(d_model, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], token: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        first, second = (x.reshape(-1, x.shape[-1]) for _ in range(2))
        flat, routed = {"one": (first, first), "own": (first, second), "behind": (second, first)}[self.part.views]
        # A gated shared expert comes first: the references' order, on which gradient bits depend.
        when = "first" if self.part.shared_gate else self.part.shared_call
        shared = self.shared(flat) if when == "first" else None
        weights, chosen = self.router(routed, token)
        weights, steady = weights[..., : chosen.shape[-1]], weights[..., chosen.shape[-1] :]
        if when == "second":
            shared = self.shared(flat)
        read = flat if self.expert_norm is None else self.expert_norm(flat)
        run = self.experts if self.part.weighs == "outputs" else self.experts.all_on_weighed
        if self.part.latent:
            out = self.latent_up(run(self.latent_down(read), weights, chosen))
        else:
            out = run(read, weights, chosen)
        if self.part.scale is not None:
            out = out * self.part.scale
        if self.part.shared_gate:
            out = out + torch.sigmoid(self.shared_gate(flat)) * shared  # type: ignore[operator]
        elif shared is not None:
            out = out + shared
        elif self.always is not None:
            out = out + self.always(flat, steady)
        elif self.part.shared:
            seen = flat if routed is flat else x
            out = out.view_as(seen) + self.shared(seen)
        if self.part.divisor is not None:
            out = out / self.part.divisor
        return out.view_as(x) if self.bias is None else out.view_as(x) + self.bias
