"""How a reference class wants to be called, where not like the rest; REFERENCE_FAULTS.md says what of it is a fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirks:
    """How one type's reference is called.

    `starts_anew`: cached calls count positions from 0 again where none are given. `own_cache`: the class of the only
    cache it takes. `reads_anew`: it has no cache, so that what came before is read again with every piece, and ours
    is asked to in proofs: what its own cache computes is held to laws. `counts_slots`: pads count as positions,
    whatever positions are given, and ours is asked to count so. `keeps_all`: logits of all positions come, whichever
    are asked for: a product over more rows has other bits. `takes_new`: a mask speaks of the new positions alone;
    generation hands none to steps. `widens_mask`: the mask of a cached call is shifted by the places of an image,
    though there be none. `positions_are_rows`: given positions are rows of a table whose first ones are no token's.
    `reads_positions_off_ids`: there are none of embeddings. `gives_states`: it makes its own states in a first call,
    and calls so what it gives and takes. `steps_alone`: single steps mix the rows of a batch, so that it is asked row
    by row. `needs_states`: it multiplies no half precision without states of the same dtype. `divides`: weights that
    the first call divides in place. `needs_float32`: half precision runs only where tensors that it loads in float32
    are so. `tables`: those that loading makes anew in float32, where building computes them in the model's dtype.
    `not_in_double`: a float64 copy does not run: a float32 number is made of its dtype's lowest one, or
    float32 logits meet its weights.
    """

    starts_anew: bool = False
    own_cache: str | None = None
    reads_anew: bool = False
    counts_slots: bool = False
    keeps_all: bool = False
    takes_new: bool = False
    widens_mask: bool = False
    positions_are_rows: bool = False
    reads_positions_off_ids: bool = False
    gives_states: str | None = None
    steps_alone: bool = False
    needs_states: bool = False
    divides: tuple[str, ...] = ()
    needs_float32: bool = False
    tables: str | None = None
    not_in_double: bool = False


_COUNTING = ("bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus", "plbart")
_ROBERTA = ("roberta", "camembert", "data2vec-text", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl")

_RWKV = tuple(f"rwkv.blocks.{{i}}.{name}.weight" for name in ("attention.output", "feed_forward.value"))

_QUIRKS: dict[str, Quirks] = {
    **dict.fromkeys((*_COUNTING, "roformer", "llama4", "llama4_text", "inkling_text"), Quirks(counts_slots=True)),
    **dict.fromkeys(_ROBERTA, Quirks(positions_are_rows=True)),
    **dict.fromkeys(("mamba", "falcon_mamba"), Quirks(takes_new=True)),
    "bamba": Quirks(starts_anew=True),
    **dict.fromkeys(("codegen", "gptj"), Quirks(tables="embed_positions")),
    "git": Quirks(widens_mask=True),
    "minimax": Quirks(own_cache="MiniMaxCache"),
    "openai-gpt": Quirks(reads_anew=True),
    "rwkv": Quirks(gives_states="state", steps_alone=True, divides=_RWKV),
    "trocr": Quirks(counts_slots=True, keeps_all=True, reads_positions_off_ids=True),
    "whisper": Quirks(keeps_all=True),
    "inkling2_text": Quirks(needs_float32=True, not_in_double=True),
    "xlstm": Quirks(gives_states="cache_params", needs_states=True, keeps_all=True),
    "xglm": Quirks(not_in_double=True),
}


def quirks(model_type: str | None) -> Quirks:
    """What is known of a type; most have none."""
    return _QUIRKS.get(model_type or "", Quirks())
