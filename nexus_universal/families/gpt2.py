"""GPT-2: learned positions, LayerNorm with bias, one fused projection stored [in, out] (Conv1D)."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.position import LearnedPositions, Norm
from nexus_universal.checkpoint.rules import Transposed, WeightMap
from nexus_universal.families.shared import common
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import LABELS, TRAINING, ConfigReader

LAYER = "transformer.h.{i}"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=1024, bos=50256, eos=50256, pad=None, scaled_residual=True)
    positions = LearnedPositions(count=text.context or 1024)
    embedding = common.embedding(reader, vocab=50257, width=768, pad=None, positions=positions)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_epsilon", 1e-5), bias=True, rounding="native")
    heads = reader.count("num_attention_heads", 12)
    reader.require(not embedding.width % heads, "num_attention_heads", heads, f"must divide {embedding.width}")
    scale = None if reader.take("scale_attn_weights", True) else 1.0
    by_layer = reader.take("scale_attn_by_inverse_layer_idx", False)
    head_dim = embedding.width // heads
    attention = Attention(
        heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        scale=ByLayer(rule="divide", value=scale or head_dim**-0.5) if by_layer else scale,
        biases=common.ALL_BIASES,
        packing=(Packed(roles=("query", "key", "value")),),
    )
    feed_forward = FeedForward(
        width=reader.count("n_inner", optional=True) or 4 * embedding.width,
        activation=common.activation(reader, "activation_function", "gelu_new"),
        gated=False,
        biases=("up", "down"),
    )
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 12), feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="gpt2",
    title="GPT-2",
    read=read,
    weights=WeightMap(
        tensors={
            "embedding.tokens": "transformer.wte",
            "embedding.positions": "transformer.wpe",
            "layers.{i}.attention_norm": f"{LAYER}.ln_1",
            "layers.{i}.attention.query_key_value": Transposed(f"{LAYER}.attn.c_attn"),
            "layers.{i}.attention.output": Transposed(f"{LAYER}.attn.c_proj"),
            "layers.{i}.feed_forward_norm": f"{LAYER}.ln_2",
            "layers.{i}.feed_forward.up": Transposed(f"{LAYER}.mlp.c_fc"),
            "layers.{i}.feed_forward.down": Transposed(f"{LAYER}.mlp.c_proj"),
            "final_norm": "transformer.ln_f",
            "head": "lm_head",
        },
        passed_over={r"\.attn\.(masked_)?bias$": "causal masks are made per call"},
        optional_prefix="transformer.",
    ),
    aliases={
        "n_embd": "hidden_size",
        "n_positions": "max_position_embeddings",
        "n_head": "num_attention_heads",
        "n_layer": "num_hidden_layers",
    },
    irrelevant={
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), TRAINING),
        **dict.fromkeys(("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"), LABELS),
        "summary_first_dropout": LABELS,
        "n_ctx": "an old name of n_positions that the reference does not read",
        "reorder_and_upcast_attn": "takes effect in the eager form of attention only",
    },
    rope="none",
    tiny={"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 96},
    draws={
        "n_head": (4, 1, 6),
        "n_inner": (None, 56),
        "activation_function": ("gelu_new", "gelu", "relu", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": (1e-5, 1e-3),
        "scale_attn_weights": (True, False),
        "scale_attn_by_inverse_layer_idx": (False, True),
        "tie_word_embeddings": (True, False),
        "n_layer": (2, 3),
    },
)
