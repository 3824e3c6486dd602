"""Which bridges to build: kinds, taps, gates, and presets for five models as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.fusion import Fusion, Member
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Step, residual_step

Kind = Literal["attention", "projection", "similarity", "contrastive"]

NORM = Norm(kind="layer", eps=1e-5, rounding="native", bias=True)
WIDEST_HEAD = 64


@dataclass(frozen=True)
class KLReplay:
    """Beside its task a bridge is trained to change nothing for inputs of the host's: `weight` · KL(host ‖ with it)."""

    weight: float = 1.0


RETENTION = KLReplay()


@dataclass(frozen=True, kw_only=True)
class CrossFusionConfig:
    """Bridges of one kind from a donor to a host.

    `taps` are pairs (layers of the donor that have run, layers of the host that have run): 0 is the embedding's output.
    "attention" has a softmax of its own over the donor's states, "projection" a feed-forward of the last one,
    "similarity" draws towards what the donor says where that is like what the host has, by a map that is fitted without
    training; "contrastive" is the same by a map that is learned by contrast. `size` is the form's inner width as a
    share of the host's, `swiglu` gives attention an output gate and a projection a gated feed-forward. `align`, `gate`
    and `zero` are `Bridge`'s.

    Example:
        >>> CrossFusionConfig(kind="attention", taps=((12, 12), (24, 24)), align="byte")
    """

    kind: Kind
    taps: tuple[tuple[int, int], ...]
    host: str = "host"
    donor: str = "donor"
    align: Literal["position", "byte"] = "position"
    gate: Literal["request", "token", "scalar"] = "request"
    zero: Literal["gate", "out"] = "gate"
    size: float = 1.0
    swiglu: bool = False
    threshold: float = 0.0
    retention: KLReplay | None = RETENTION

    def form(self, width: int) -> CrossAttention | FeedForward | Similarity:
        """What computes, for a host of this width."""
        inner = max(1, round(self.size * width))
        if self.kind == "attention":
            heads = -(-inner // WIDEST_HEAD)
            return CrossAttention(heads=heads, head_dim=-(-inner // heads), gated=self.swiglu)
        if self.kind == "projection":
            return FeedForward(width=inner, activation="silu" if self.swiglu else "gelu", gated=self.swiglu)
        return Similarity(threshold=self.threshold)

    def fused(self, host: ArchitectureParameter, donor: ArchitectureParameter) -> ArchitectureParameter:
        """The host's n with the donor beside it and the bridges in its layers.

        Raises:
            InputError: no tap, a tap behind the host's last layer, or a host of several streams or of another name.
            InvalidArchitecture: a tap that the donor does not have, or what else cannot be meant.
        """
        if not self.taps:
            raise InputError("taps must not be empty: ((donor's layers, host's layers), …)")
        if len(set(self.taps)) < len(self.taps):
            raise InputError(f"taps name a pair twice: {self.taps}")
        if host.fusion and host.fusion.name != self.host:
            raise InputError(f"the host is called {host.fusion.name!r} already, not {self.host!r}")
        if host.streams:
            raise InputError(f"{self.host} has {host.streams.count} residual streams: a bridge reads and writes one")
        layers = list(host.layers)
        for donor_layer, host_layer in self.taps:
            if not 0 <= host_layer <= len(layers):
                raise InputError(f"taps name layer {host_layer} of the host: must lie in [0, {len(layers)}]")
            index = max(host_layer - 1, 0)
            step = self._step(f"bridge_{self.donor}_{donor_layer}_{host_layer}", donor_layer, host=host, donor=donor)
            steps = (step, *layers[index].steps) if host_layer == 0 else (*layers[index].steps, step)
            layers[index] = dataclasses.replace(layers[index], steps=steps)
        fusion = host.fusion or Fusion(name=self.host, members=(Member(name=self.donor, n=donor),))
        if host.fusion:
            fusion = dataclasses.replace(fusion, members=(*fusion.members, Member(name=self.donor, n=donor)))
        return dataclasses.replace(host, layers=tuple(layers), fusion=fusion).validate()

    def _step(self, name: str, donor_layer: int, *, host: ArchitectureParameter, donor: ArchitectureParameter) -> Step:
        form = self.form(host.d_hidden)
        bridge = Bridge(
            donor=self.donor,
            layer=donor_layer,
            donor_width=donor.d_hidden,
            form=form,
            donor_norm=None if isinstance(form, Similarity) else NORM,
            align=self.align,
            gate=self.gate,
            zero=self.zero,
        )
        # Of the host's vector a projection reads no more than its gate does, and a similarity all as it is.
        reads = isinstance(form, CrossAttention) or (isinstance(form, FeedForward) and self.gate != "scalar")
        return residual_step(name, bridge, norm=NORM if reads else None)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A config whose taps are shares of the two depths: (donor's, host's)."""

    depths: tuple[tuple[float, float], ...]
    settings: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "glm-4.7-flash": Preset(
        depths=((0.5, 0.5), (1.0, 0.75)),
        settings={"kind": "attention", "swiglu": True, "gate": "token"},
    ),
    "qwen3-4b": Preset(
        depths=((0.5, 0.25), (0.75, 0.5), (1.0, 0.75)),
        settings={"kind": "attention", "swiglu": True, "gate": "token", "size": 0.5},
    ),
    "qwen3-coder-30b": Preset(
        depths=((0.75, 0.5), (1.0, 0.75)),
        settings={"kind": "projection", "size": 4.0},
    ),
    "qwen3-0.6b": Preset(
        depths=((0.75, 0.5),),
        settings={"kind": "attention", "size": 0.125},
    ),
    "qwen3-coder-next": Preset(
        depths=((0.75, 0.5), (1.0, 0.75)),
        settings={"kind": "projection", "swiglu": True, "size": 4.0},
    ),
}
"""By host. GLM-4.7-Flash: attention with gates like SwiGLU's, opened by each token. Qwen3-4B: the same across layers,
each bridge weighed for itself. Coder-30B: wide projections. Qwen3-0.6B: one light bridge. Coder-Next: wide SwiGLU."""


def preset(name: str, host: ArchitectureParameter, donor: ArchitectureParameter, **changes: Any) -> CrossFusionConfig:
    """A preset for two models of any depth, with changes.

    Example:
        >>> config = preset("qwen3-4b", host.n, donor.n, align="byte")

    Raises:
        InputError: no preset of this name.
    """
    if name not in PRESETS:
        raise InputError(f"preset {name!r} (known: {', '.join(PRESETS)})")
    found = PRESETS[name]
    taps = tuple(
        (round(theirs * donor.num_layers), max(1, round(ours * host.num_layers))) for theirs, ours in found.depths
    )
    return CrossFusionConfig(**{"taps": tuple(dict.fromkeys(taps)), **found.settings, **changes})
