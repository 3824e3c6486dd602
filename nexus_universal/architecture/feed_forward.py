"""Feed-forward networks and mixtures of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.mixers import Activation, Packed, packing_problems
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm, Rope


@part
class FeedForward(Part):
    """down(act(gate x) · up x) where `gated` (GLU, arXiv 2002.05202), else down(act(up x)).

    `sparsity` keeps the gate's entries above the Gaussian quantile of that probability (Gemma 3n). `gate_scale` and
    `output_scale` are muP multipliers. `gate_limit` bounds the gate from above and `up` on both sides; `up_shift` is
    added to `up` after that. `late_bias` adds biases to the finished, rounded product. `inner_norm` norms what `down`
    reads. `product` is the dtype of act(gate) · up. "xielu" is x > 0 ? a x² + b x : (e^min(x, ε) - 1 - x) c + b x, with
    a and c learned (arXiv 2411.13010). `softcaps` (a, b) bound silu's linear factor, and `up`: a tanh(gate / a) σ(gate)
    · b tanh(up / b), in float32 (Inkling 2).
    """

    role: ClassVar[str] = "feed_forward"
    projections: ClassVar[tuple[str, ...]] = ("gate", "up")

    width: int
    activation: Literal[Activation, "xielu"]
    gated: bool = True
    biases: tuple[Literal["gate", "up", "down"], ...] = ()
    packing: tuple[Packed, ...] = ()
    gate_scale: float | None = None
    output_scale: float | None = None
    gate_limit: float | None = None
    up_shift: float | None = None
    sparsity: float | None = None
    late_bias: bool = False
    inner_norm: Norm | None = None
    product: Literal["model", "float32"] = "model"
    softcaps: tuple[float, float] | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.gated and self.activation == "xielu":
            yield "activation", "is 'xielu' for gated = False only"
        if not self.gated:
            for name in ("gate_scale", "gate_limit", "up_shift", "sparsity"):
                if getattr(self, name) is not None:
                    yield name, "needs gated = True"
            if self.product == "float32":
                yield "product", "must be 'model' where gated = False: nothing is multiplied"
            if "gate" in self.biases:
                yield "biases", "names 'gate', but gated = False"
        if self.softcaps and (not self.gated or self.activation != "silu" or self.product == "float32"):
            yield "softcaps", "needs gated = True, activation = 'silu', and product = 'model'"
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            yield "sparsity", "must lie between 0 and 1"
        if self.late_bias and not self.biases:
            yield "late_bias", "needs biases"
        yield from packing_problems(self.packing, self.projections if self.gated else ("up",), self.biases)


@part
class ExpertGroups(Part):
    """Experts in `count` groups of which only the best `keep` compete.

    A group scores `by` the sum of its two best experts (DeepSeek-V3) or by its best one (DeepSeek-V2), where experts
    of lost groups keep a score of 0 instead of none; so they do where `zeroed`.
    """

    count: int
    keep: int
    by: Literal["two_best", "best"] = "two_best"
    zeroed: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.zeroed and self.by == "best":
            yield "zeroed", "must be False where by = 'best', which says so already"
        if self.keep > self.count:
            yield "keep", f"must not exceed count = {self.count}"


@part
class Router(Part):
    """Which experts a token visits, and with what weight.

    score = `score`(W x + b), b where `bias`; the top k of score (+ a bias that affects selection only) are chosen;
    their weights are the scores without that bias, divided by their sum + `sum_epsilon` (or by `sum_floor`, where that
    is more) where `normalise` (a `total` that the kernel of a 1-norm takes, or the logarithms of sigmoids, has other
    last bits), times `scale` and, where `learned_scale`, a learned number, float32 in any model. `score`
    "softmax_chosen" takes the top k of the raw logits and a softmax over those, in the dtype of `weights`: "rounded" is
    float32, rounded to the model's at the end; "sigmoid_chosen" takes their sigmoids, "sigmoid_masked_chosen" among
    those of all, where the others' are 0. `scores` is the dtype of a softmax over all. "sparse_mixer" (arXiv
    2409.12136) takes one expert after the other, each with its share among those left whose logits l are near the best
    one m, (m - l) / max(|l|, m) ≤ `tolerance`. `logits` "widened" come out of a product in the model's dtype as
    float32; `softcap` c makes them c · tanh(l / c). `stored` "float32" leaves W in that in any model. `order` is
    whether the k come sorted: a sum's bits depend on it. `by_token` looks the k up in a fixed table of so many tokens;
    only their weights depend on x (DeepSeek-V4). `input_norm` is a norm of the router's own; `input_scale` then
    multiplies by a learned vector and by d^-0.5, and `expert_scale` each weight by a learned number (Gemma 4).
    """

    score: Literal[
        "softmax",
        "sigmoid",
        "softmax_chosen",
        "sigmoid_chosen",
        "sigmoid_masked_chosen",
        "sqrt_softplus",
        "sparse_mixer",
    ]
    normalise: bool
    bias: bool = False
    selection_bias: bool = False
    groups: ExpertGroups | None = None
    sum_epsilon: float = 0.0
    sum_floor: float = 0.0
    scale: float | None = None
    logits: Literal["model", "widened", "float32"] = "model"
    softcap: float | None = None
    scores: Literal["float32", "model"] = "float32"
    tolerance: float | None = None
    total: Literal["sum", "norm", "logs"] = "sum"
    weights: Literal["model", "float32", "rounded"] = "float32"
    stored: Literal["model", "float32"] = "model"
    order: Literal["sorted", "unsorted"] = "sorted"
    by_token: int | None = None
    input_norm: Norm | None = None
    input_scale: bool = False
    expert_scale: bool = False
    learned_scale: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        for name in ("sum_epsilon", "sum_floor"):
            if getattr(self, name) and not self.normalise:
                yield name, "needs normalise = True"
        if self.normalise and self.score == "softmax_chosen":
            yield "normalise", "must be False: a softmax over the chosen sums to one already"
        if self.weights == "rounded" and not self.score.endswith("_chosen") and self.logits == "model":
            yield "weights", "must be 'model', which rounds at the end too, but where score is of the chosen"
        if self.logits == "widened" and self.score == "softmax":
            yield "logits", "must be 'model' or 'float32' for score = 'softmax', which widens them"
        if self.stored == "float32" and self.logits != "float32":
            yield "stored", "is 'float32' for logits = 'float32' only"
        if self.scores == "model" and self.score != "softmax":
            yield "scores", "must be 'float32' but for score = 'softmax': others have their logits' dtype"
        if self.total != "sum" and (not self.normalise or self.sum_epsilon):
            yield "total", "must be 'sum' but where normalise = True and sum_epsilon = 0"
        if self.total == "logs" and (self.score != "sigmoid" or self.groups or self.by_token or self.sum_floor):
            yield "total", "is 'logs' for score = 'sigmoid' without groups, by_token and sum_floor only"
        if (self.tolerance is None) == (self.score == "sparse_mixer"):
            yield "tolerance", "must be given for score = 'sparse_mixer', and for no other"
        if self.score == "sparse_mixer" and (self.normalise or self.selection_bias or self.groups or self.by_token):
            yield "score", "is 'sparse_mixer' without normalise, selection_bias, groups and by_token only"
        if self.by_token and self.selection_bias:
            yield "selection_bias", "must be False: by_token leaves nothing to select"
        if self.input_scale and self.input_norm is None:
            yield "input_scale", "needs input_norm"
        if self.groups and self.selection_bias == (self.groups.by == "best"):
            yield "groups", "must be by 'two_best' with selection_bias = True, by 'best' without: no others are known"


def _grouped(router: Router, choices: int) -> Iterator[tuple[str, str]]:
    """So many choices fall into the router's groups, and each has as many as are looked at."""
    if router.groups and choices % router.groups.count:
        yield "router.groups.count", f"must divide experts = {choices}"
    elif router.groups and router.groups.by == "two_best" and choices < 2 * router.groups.count:
        yield "router.groups.count", f"must leave two of {choices} experts in every group where by = 'two_best'"


@part
class MixtureOfExperts(Part):
    """Σ over the chosen experts of weight · expert(x), plus an expert that every token visits.

    Tokens visit `always` experts more, all like the others: the router scores them, too, their scores are in the sum by
    which all are divided, and their weights multiply what `down` reads. Their outputs are added in float32 (Inkling).
    `identity_experts` add choices that return x itself (LongCat). `latent` runs the experts in a smaller space between
    two projections (Nemotron-H); router and shared expert stay outside it. `shared_gate` weighs the shared expert by a
    sigmoid, `bias` adds a learned vector at the end (JetMoE). `expert_norm` is a norm that experts read x through and
    the router does not (Gemma 4). What the routed experts give is multiplied by `scale`, and the whole sum divided by
    `divisor`. `weighs` "inputs" multiplies what experts read instead of what they give, and runs all of them, those not
    chosen on zeros (Llama 4). Gate and up rows of all experts are one stack, or two `apart`: other bits. `shared_call`
    is when a shared expert without gate is called, last, first, or second, behind the router: gradients differ in bits.
    With `views` "own" router and shared expert see x itself, and not the list of tokens that the experts see: gradients
    then meet in another order, and differ in bits; in yet another where that list is made "behind" the router's.
    `sum_order` "chosen" adds a token's k outputs as they were chosen, in the weights' dtype; "expert" adds them one by
    one in the experts' order, rounding each to the model's dtype; "loop" is the same, an expert's tokens lying by
    choice, and gradients meeting from the last expert to the first.
    """

    role: ClassVar[str] = "feed_forward"

    experts: int
    per_token: int
    expert: FeedForward
    router: Router
    shared: FeedForward | None = None
    shared_gate: bool = False
    identity_experts: int = 0
    latent: int | None = None
    latent_bias: bool = False
    bias: bool = False
    sum_order: Literal["chosen", "expert", "loop"] = "chosen"
    expert_norm: Norm | None = None
    views: Literal["one", "own", "behind"] = "one"
    scale: float | None = None
    divisor: float | None = None
    shared_call: Literal["last", "second", "first"] = "last"
    weighs: Literal["outputs", "inputs"] = "outputs"
    stacks: Literal["joined", "apart"] = "joined"
    always: int = 0

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.latent_bias and self.latent is None:
            yield "latent_bias", "needs latent"
        if self.always and self.router.total != "logs":
            yield "always", "needs router.total = 'logs'"
        if self.always and (self.shared or self.latent or self.identity_experts or self.weighs == "inputs"):
            yield "always", "must be 0 beside shared, latent and identity_experts, and where weighs = 'inputs'"
        if self.always and (not self.expert.gated or self.expert.biases or self.expert.packing):
            yield "always", "needs gated experts without biases and packing"
        if self.always and self.router.expert_scale:
            yield "router.expert_scale", "must be False beside experts that are always visited"
        if self.per_token > self.experts + self.identity_experts:
            yield "per_token", f"must not exceed the number of experts = {self.experts + self.identity_experts}"
        yield from _grouped(self.router, self.experts + self.identity_experts)
        if self.identity_experts and self.expert.biases:
            yield "expert.biases", "must be empty beside identity_experts, which have none"
        if self.shared_gate and self.shared is None:
            yield "shared_gate", "needs a shared expert"
        if self.weighs == "inputs" and (self.expert.biases or self.expert.packing or not self.expert.gated):
            yield "weighs", "is 'inputs' for gated experts without biases and packing only"
        wide = self.router.logits != "model" or (self.router.scores == "float32" and self.router.score == "softmax")
        if self.weighs == "inputs" and (self.router.weights == "float32" or (self.router.weights == "model" and wide)):
            yield "router.weights", "must be the model's dtype where weighs = 'inputs': experts read their product"
        if self.stacks == "apart" and (self.expert.biases or self.expert.packing or not self.expert.gated):
            yield "stacks", "is 'apart' for gated experts without biases and packing only"
        if self.stacks == "apart" and self.weighs == "inputs":
            yield "stacks", "must be 'joined' where weighs = 'inputs'"
        if self.weighs == "inputs" and (self.sum_order != "chosen" or self.identity_experts):
            yield "weighs", "is 'inputs' with sum_order = 'chosen' and without identity_experts only"
        if self.shared_call != "last" and (self.shared is None or self.shared_gate):
            yield "shared_call", "must be 'last' but for a shared expert without gate"
        if self.divisor == 0:
            yield "divisor", "must not be zero"
        if any(set(packed.roles) != {"gate", "up"} for packed in self.expert.packing):
            yield "expert.packing", "must join gate and up: those of all experts are always one stacked tensor"
        if any(packed.groups == 1 for packed in self.expert.packing):
            yield "expert.packing", "must be empty where all gate rows come first, or have more groups"
        if any(self.expert.width % packed.groups for packed in self.expert.packing):
            yield "expert.packing", f"must have groups that divide expert.width = {self.expert.width}"
        if self.expert.inner_norm is not None:
            yield "expert.inner_norm", "must be None: no expert has one"
        if self.expert.activation == "xielu":
            yield "expert.activation", "must not be 'xielu', whose learned numbers experts have not"
        if self.expert.late_bias:
            yield "expert.late_bias", "must be False: experts' biases are always added to finished products"
        if 0 < len({"gate", "up"} & set(self.expert.biases)) < 1 + self.expert.gated:
            yield "expert.biases", "must name both or none of gate and up, which are one stacked tensor"


@part
class RoutedAttention(Part):
    """Mixture of attention heads (JetMoE, arXiv 2404.07413): each token's experts own query and output projections.

    Each chosen expert asks with `kv_heads` queries of its own, slot after slot, so that head h meets key/value head
    h mod kv_heads. Their outputs pass the same experts' output projections, are weighted by the router, added in the
    experts' order, and a learned bias is added.
    """

    role: ClassVar[str] = "mixer"
    projections: ClassVar[tuple[str, ...]] = ("key", "value")

    experts: int
    per_token: int
    kv_heads: int
    head_dim: int
    router: Router
    rope: Rope | None = None
    packing: tuple[Packed, ...] = ()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.per_token > self.experts:
            yield "per_token", f"must not exceed experts = {self.experts}"
        yield from _grouped(self.router, self.experts)
        if self.rope:
            yield from self.rope.problems_in_head(self.head_dim, width="head_dim")
        yield from packing_problems(self.packing, self.projections)

    @property
    def heads(self) -> int:
        """Queries per token."""
        return self.per_token * self.kv_heads


@part
class PerLayerInput(Part):
    """up(act(gate x) · p) where p is this layer's slice of the per-layer token embedding (Gemma 3n)."""

    width: int
    activation: Activation
