"""The text model of Llama 3.2 with vision: Llama's, and layers that look at an image, which a text alone passes by."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import Program, Step, Term, Write
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family, Reference
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = dense.Size(
    context=131072,
    vocab=128256,
    width=4096,
    inner=14336,
    depth=40,
    heads=32,
    kv_heads=8,
    bos=128000,
    eos=128001,
    pad=128004,
)
LOOKING = list(range(3, 40, 5))
IDLE = Program(steps=(Step(branches=(), writes=(Write(terms=(Term(source="x"),)),)),))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width, heads = reader.count("hidden_size", SIZE.width), reader.count("num_attention_heads", SIZE.heads)
    reader.inert("head_dim", None, width // heads)
    norm = common.rms_norm(reader, 1e-5)
    n = dense.decoder(reader, SIZE, norm, biases=(), table={"spare": 8}, head={"dtype": "float32"})
    depth = len(n.layers)
    if reader.values.get("cross_attention_layers") is None:
        reader.values["cross_attention_layers"] = [index for index in LOOKING if index < depth]
    looking = reader.indices("cross_attention_layers", length=depth)
    reader.require(0 not in looking, "cross_attention_layers", list(looking), "must not hold 0, whose cache counts")
    layers = tuple(IDLE if index in looking else layer for index, layer in enumerate(n.layers))
    return replace(n, layers=layers, head=replace(n.head, tied=False))


FAMILY = Family(
    model_type="mllama_text_model",
    title="Llama 3.2 Vision's text model",
    read=read,
    weights=replace(
        names.weights(),
        carried={r"^model\.layers\.{idle}\.": "looks at an image, and is passed by where there is none"},
    ),
    reference=Reference(model_type="mllama", config=lambda config: {"text_config": dict(config)}),
    left_out=("the layers that look at images",),
    irrelevant={"dropout": TRAINING, "tie_word_embeddings": "the reference's head is its own"},
    rope_theta=500000.0,
    tiny=draws.TINY
    | {"num_hidden_layers": 3, "cross_attention_layers": [1], "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 4},
    draws=draws.without(draws.DENSE, "attention_bias", "tie_word_embeddings")
    | {"num_hidden_layers": (3, 2, 4), "cross_attention_layers": ([1], []), "pad_token_id": (4, None, 100)},
)
