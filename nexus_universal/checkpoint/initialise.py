"""Random weights as the references draw them."""

from __future__ import annotations

import math

import torch
from torch import nn

from nexus_universal.architecture.ends import Text
from nexus_universal.layers.activations import Xielu
from nexus_universal.layers.adaptive import Band
from nexus_universal.layers.attended_read import AttendedRead
from nexus_universal.layers.channel_delta import UniversalChannelDelta
from nexus_universal.layers.channel_state_space import UniversalChannelStateSpace
from nexus_universal.layers.connections import UniversalHyperConnection
from nexus_universal.layers.decayed_average import UniversalDecayedAverage, UniversalShiftedFeedForward
from nexus_universal.layers.experts import UniversalRouter
from nexus_universal.layers.gain import Gain
from nexus_universal.layers.gated_delta import UniversalGatedDelta
from nexus_universal.layers.headed_state_space import UniversalHeadedStateSpace
from nexus_universal.layers.length_limit import LengthLimit
from nexus_universal.layers.lightning_attention import UniversalLightningAttention
from nexus_universal.layers.matrix_memory import UniversalMatrixMemory
from nexus_universal.layers.ngrams import UniversalHashedNgrams
from nexus_universal.layers.norms import UniversalNorm
from nexus_universal.layers.residual_convolution import UniversalDynamicConvolution
from nexus_universal.layers.state_space import UniversalStateSpace
from nexus_universal.layers.steps import LayerScale
from nexus_universal.layers.streams import UniversalStreams
from nexus_universal.layers.tables import Table


@torch.no_grad()
def initialise(model: nn.Module, text: Text) -> None:
    """Matrices normal with std `initializer_range`, biases zero, norms the identity, the pad row zero.

    A delta rule's decays start as log U with bias 1, or as steps do. `scaled_residual` shrinks what writes to the
    residual by √(2 · layers) (GPT-2).
    """
    std = text.initializer_range
    for buffer in model.buffers():
        nn.init.zeros_(buffer)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.endswith("bias"):
            is_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            depth = len(model.layers) if text.scaled_residual and is_residual else 0  # type: ignore[arg-type]
            own = text.embedding_range if name == "embedding.tokens.weight" else None
            nn.init.normal_(parameter, std=own or (std / math.sqrt(2 * depth) if depth else std))
        else:
            nn.init.zeros_(parameter)
    for module in model.modules():
        for buffer in module.buffers(recurse=False):
            nn.init.zeros_(buffer)
        if isinstance(module, UniversalNorm) and module.weight is not None:
            nn.init.constant_(module.weight, 0.0 if module.part.scale == "one_plus_weight" else 1.0)
        elif isinstance(module, Gain):
            nn.init.ones_(module.weight)
        elif isinstance(module, LengthLimit) and module.scale is not None:
            nn.init.ones_(module.scale)
        elif isinstance(module, AttendedRead):
            nn.init.zeros_(module.query)
        elif isinstance(module, UniversalDynamicConvolution):
            nn.init.zeros_(module.taps)
        elif isinstance(module, Table) and module.padding_row is not None:
            nn.init.zeros_(module.weight[module.padding_row])
        elif isinstance(module, Band):  # as fairseq's adaptive_input.py: each band's output alike, however narrow
            nn.init.normal_(module.rows.weight, std=module.rows.weight.shape[1] ** -0.5)
            nn.init.xavier_uniform_(module.projection.weight)
        elif isinstance(module, LayerScale):
            nn.init.ones_(module.value)
        elif isinstance(module, Xielu):  # slopes of 0.8 and 0.3 on either side, behind a softplus
            for parameter, start in ((module.positive, 0.8), (module.negative, 0.3)):
                nn.init.constant_(parameter, start).expm1_().log_()
            module.slope.fill_(0.5)
            module.bound.fill_(-1e-6)
        elif isinstance(module, UniversalHyperConnection) or (
            isinstance(module, UniversalStreams) and module.part.merge == "weigh"
        ):
            nn.init.ones_(module.scale)
        elif isinstance(module, UniversalRouter):
            if text.zero_routers:
                nn.init.zeros_(module.weight)
            if module.scale is not None:
                nn.init.ones_(module.scale)
        elif isinstance(module, UniversalGatedDelta | UniversalChannelDelta):
            module.decay_log.uniform_(*text.decay_range).log_()
            nn.init.ones_(module.decay_bias)
            _initialise_steps(module.decay_bias, text)
        elif isinstance(module, UniversalLightningAttention):
            module.start_decays()
        elif isinstance(module, UniversalHashedNgrams):
            module.start_hashes()
            nn.init.zeros_(module.convolution)
        elif isinstance(module, UniversalMatrixMemory):
            module.start_gates()
        elif isinstance(module, UniversalDecayedAverage | UniversalShiftedFeedForward):
            module.start(depth=len(model.layers))  # type: ignore[arg-type]
        elif isinstance(module, UniversalStateSpace | UniversalChannelStateSpace | UniversalHeadedStateSpace):
            _initialise_state_space(module, text, layers=len(model.layers))  # type: ignore[arg-type]


def _initialise_state_space(
    module: UniversalStateSpace | UniversalChannelStateSpace | UniversalHeadedStateSpace, text: Text, *, layers: int
) -> None:
    """A is -1, -2, … head by head or state by state (S4D-real, arXiv 2206.11893), D 1, Δ as `text` says."""
    nn.init.ones_(module.skip)
    module.decay_log.copy_(torch.arange(1, module.decay_log.shape[-1] + 1).log().expand_as(module.decay_log))
    if isinstance(module, UniversalStateSpace):
        bias = nn.init.ones_(module.step_bias)
    else:
        headed, bound = isinstance(module, UniversalHeadedStateSpace), module.part.rank**-0.5
        weight, bias = (module.step_weight, module.step_bias) if headed else (module.step.weight, module.step.bias)
        if text.step_range:
            nn.init.uniform_(weight, -bound, bound)
    _initialise_steps(bias, text)
    if text.uniform_output:
        for weight in (module.convolution.weight, module.output.weight):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    if text.shrunk_output:
        nn.init.kaiming_uniform_(module.output.weight, a=math.sqrt(5)).div_(math.sqrt(layers))


def _initialise_steps(bias: torch.Tensor, text: Text) -> None:
    """The bias whose softplus is log-uniform in `step_range`."""
    if text.step_range:
        low, high, floor = text.step_range
        step = torch.empty_like(bias, dtype=torch.float32).uniform_(math.log(low), math.log(high))
        step = step.exp().clamp_min(floor)
        bias.copy_(step + torch.log(-torch.expm1(-step)))
