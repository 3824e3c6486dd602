"""AFM-4.5B (Arcee): Llama with a plain feed-forward of squared ReLU."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=4096, vocab=32000, width=2560, inner=18432, depth=32, heads=32, bos=128000, eos=128001)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    return dense.decoder(reader, SIZE, common.rms_norm(reader, 1e-5), feed_forward=dense.plain_biases(reader))


FAMILY = Family(
    model_type="arcee",
    title="AFM-4.5B",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY,
    draws=draws.DENSE
    | {"head_dim": (None, 16), "mlp_bias": (False, True), "hidden_act": ("relu2", "silu", "gelu_pytorch_tanh")},
)
