"""Where the reference reads a config otherwise than it says: faults of docs/REFERENCE_FAULTS.md, on both sides."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.falcon.modeling_falcon import build_alibi_tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.parity.modes import Reference, positions_of
from nexus_universal.parity.quirks import quirks
from tests.helpers import MODEL_TYPES, config, explicit, furthest, ids, pair, raw, reference, same, universal

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def frequencies(**changes: Any) -> torch.Tensor:
    """What the reference's full layers rotate by."""
    return Gemma3RotaryEmbedding(config("gemma3_text", **copy.deepcopy(changes))).full_attention_inv_freq


def test_an_old_type_key_is_overlooked() -> None:
    """Gemma 3 with v4's `{"type": "linear"}`: the reference fills in the default type first and scales nothing."""
    old, new = ({key: "linear", "factor": 8.0} for key in ("type", "rope_type"))
    assert torch.equal(frequencies(rope_scaling=old), frequencies())
    assert torch.equal(frequencies(rope_scaling=new), frequencies() / 8.0)
    with pytest.raises(UnsupportedConfig, match=r"rope_parameters\.full_attention\.factor = 8\.0"):
        ArchitectureParameter.from_huggingface(raw("gemma3_text", rope_scaling=old))


def test_a_nested_truncate_is_looked_for_in_the_wrong_place() -> None:
    """YaRN's `truncate` under a layer type: the reference looks beside the layer types, where it never stands."""
    yarn = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
    nested = {"sliding_attention": PLAIN, "full_attention": yarn}
    rounded = {"sliding_attention": PLAIN, "full_attention": yarn | {"truncate": False}}
    assert torch.equal(frequencies(rope_parameters=rounded), frequencies(rope_parameters=nested))
    with pytest.raises(UnsupportedConfig, match=r"rope_parameters\.full_attention\.truncate = False"):
        ArchitectureParameter.from_huggingface(raw("gemma3_text", rope_parameters=rounded))


def test_alibi_is_bfloat16_in_any_model() -> None:
    """Falcon in float32: from key 257 on neighbours share biases; ours has the same bits, and n says why."""
    biases = build_alibi_tensor(torch.ones(1, 600, dtype=torch.long), 8, torch.float32)[0, 0]
    assert torch.equal(biases, biases.bfloat16().float())
    assert bool((biases.diff()[:256] > 0).all()) and int((biases.diff()[256:] == 0).sum()) > 150
    theirs = reference("falcon", alibi=True, max_position_embeddings=600)
    ours = universal(theirs)
    assert ours.n.pos_embedding_type == "alibi"
    exact = ours.n.replace("layers.*.attention.alibi.rounding", "model")
    finer = UniversalTransformer(exact).eval()
    finer.load_state_dict(ours.state_dict())
    x = ids(1, 600)
    with torch.no_grad():
        expected = theirs(x, use_cache=False).logits
        assert same(ours(x).logits, expected)
        assert furthest(finer(x).logits, expected) > 1e-3


def test_eager_attention_adds_alibi_twice() -> None:
    """Falcon's eager form adds the biases to the scores, and again with the mask into which they were put."""
    theirs = reference("falcon", alibi=True, num_hidden_layers=1)
    eager = type(theirs)._from_config(copy.deepcopy(theirs.config), attn_implementation="eager")
    eager.load_state_dict(theirs.state_dict())
    steeper = universal(theirs)
    (alibi,) = steeper.plan.biases.values()
    x = ids(1, 40)
    with torch.no_grad():
        found = eager.eval()(x, use_cache=False).logits
        assert furthest(found, theirs(x, use_cache=False).logits) > 1e-2
        alibi._slopes = {device: 2 * slopes for device, slopes in alibi._slopes.items()}
        assert furthest(found, steeper(x).logits) < 1e-5


@pytest.mark.parametrize("model_type", ["gpt_oss", "falcon", "afmoe"])
def test_packed_sequences_are_not_kept_apart(model_type: str) -> None:
    """Positions that start anew: the reference hands them to the rotation only, not to the mask."""
    theirs, ours = pair(model_type)
    first, second = ids(1, 7, seed=3), ids(1, 9, seed=4)
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    together = {"input_ids": torch.cat([first, second], dim=1), "position_ids": positions}
    with torch.no_grad():
        alone = torch.cat([theirs(piece, use_cache=False).logits for piece in (first, second)], dim=1)
        assert furthest(theirs(**together, use_cache=False).logits, alone) > 1e-2
        assert furthest(ours(**together).logits, alone) < 1e-5


def test_a_config_class_writes_into_what_it_is_given() -> None:
    """A dict of rotary settings handed to two configs carries the first one's defaults into the second."""
    shared = {"rope_type": "default", "rope_theta": 500.0}
    config("qwen3_next")  # the helper copies; here the class itself is called
    type(config("qwen3_next"))(rope_parameters=shared)
    assert shared == {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    mine = {"rope_type": "default", "rope_theta": 500.0}
    ArchitectureParameter.from_huggingface({"model_type": "qwen3_next", "rope_parameters": mine})
    assert mine == {"rope_type": "default", "rope_theta": 500.0}


def test_cached_calls_count_positions_anew() -> None:
    """Bamba without positions: the second piece is rotated as if it were the first."""
    theirs, ours = pair("bamba")
    x = ids(1, 20)
    with torch.no_grad():
        whole, cache = theirs(x, use_cache=False).logits, DynamicCache(config=theirs.config)
        pieces = [theirs(piece, past_key_values=cache).logits for piece in x.split(10, dim=1)]
        assert furthest(torch.cat(pieces, dim=1), whole) > 1e-2
        mine = ours.new_cache()
        assert furthest(torch.cat([ours(p, cache=mine).logits for p in x.split(10, dim=1)], dim=1), whole) < 1e-5


@pytest.mark.parametrize("model_type", ["bamba", "granitemoehybrid"])
def test_a_hybrid_without_attention_cannot_be_cached(model_type: str) -> None:
    """The mask of full attention is made all the same, and asks a cache for its length that has none."""
    none = {"bamba": {"attn_layer_indices": []}, "granitemoehybrid": {"layer_types": None}}[model_type]
    theirs = reference(model_type, **none)
    ours, x = universal(theirs), ids(1, 20)
    with pytest.raises(ValueError, match="get_seq_length"), torch.no_grad():
        theirs(x, past_key_values=DynamicCache(config=theirs.config))
    with torch.no_grad():
        whole, mine = theirs(x, use_cache=False).logits, ours.new_cache()
        assert same(ours(x).logits, whole)
        assert furthest(torch.cat([ours(p, cache=mine).logits for p in x.split(10, dim=1)], dim=1), whole) < 1e-5


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba", "jamba"])
def test_a_scan_forgets_what_was_read_before(model_type: str) -> None:
    """Several positions after others: the state starts from zero again; single steps go on from it."""
    theirs, ours = pair(model_type)
    kept, x = Reference(theirs), ids(1, 20)
    with torch.no_grad():
        whole = theirs(x, use_cache=False).logits
        for pieces, forgets in (([10, 10], True), ([10, *(1,) * 10], False)):
            cache, mine = kept.new_cache(), ours.new_cache()
            found = torch.cat([kept(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
            assert (furthest(found, whole) > 1e-2) == forgets
            assert (
                furthest(torch.cat([ours(p, cache=mine).logits for p in x.split(pieces, dim=1)], dim=1), whole) < 1e-4
            )


@pytest.mark.parametrize("model_type", ["mamba", "falcon_mamba"])
def test_a_mask_of_the_past_is_multiplied_into_the_present(model_type: str) -> None:
    """The growing mask makes copies of a step's token, which the convolution keeps; generation hands over none."""
    theirs, ours = pair(model_type)
    x, ones = ids(1, 8), torch.ones(1, 8, dtype=torch.long)
    with torch.no_grad():
        last = theirs(x, use_cache=False).logits[:, -1]
        cache, mine = DynamicCache(config=theirs.config), ours.new_cache()
        for step in (slice(0, 6), slice(6, 7), slice(7, 8)):
            mask = ones[:, : step.stop]
            found = theirs(x[:, step], attention_mask=mask, cache_params=cache, use_cache=True).logits[:, -1]
            held = ours(x[:, step], mask, cache=mine).logits[:, -1]
        assert furthest(found, last) > 1e-2
        assert furthest(held, last) < 1e-4


def test_a_biased_short_convolution_reads_pads() -> None:
    """LFM2 with `conv_bias`: what the projection makes of a pad reaches the tokens after it."""
    theirs = reference("lfm2", conv_bias=True)
    ours, x = universal(theirs), ids(1, 12)
    mask = torch.tensor([[0] * 4 + [1] * 8])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = theirs(x[:, 4:], use_cache=False).logits
        call = {"attention_mask": mask, "position_ids": positions}
        assert furthest(theirs(x, **call, use_cache=False).logits[:, 4:], alone) > 1e-2
        assert furthest(ours(x, **call).logits[:, 4:], alone) < 1e-5


@pytest.mark.parametrize("kind", ["compressed_sparse_attention", "heavily_compressed_attention"])
def test_a_compressor_pools_pads(kind: str) -> None:
    """DeepSeek-V4: groups are counted from the row's first slot, and a pad weighs in its group like a token."""
    theirs = reference("deepseek_v4", num_hidden_layers=1, layer_types=[kind], sliding_window=4)
    ours, x = universal(theirs), ids(1, 44)
    mask = torch.tensor([[0] * 3 + [1] * 41])
    call = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        alone = theirs(x[:, 3:], use_cache=False).logits
        assert furthest(theirs(x, **call, use_cache=False).logits[:, 3:], alone) > 1e-2
        assert furthest(ours(x, **call).logits[:, 3:], alone) < 1e-5


def test_a_dropped_cache_is_not_read_anew() -> None:
    """Phi-4-multimodal forgets a text that grows past the original context; the same weights in Phi-3 do not."""
    theirs = reference("phi4_multimodal", original_max_position_embeddings=16)
    ours, x = universal(theirs), ids(1, 11)
    settings = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(x)
    cached, whole = (
        theirs.generate(x, attention_mask=mask, eos_token_id=None, use_cache=each, **settings) for each in (True, False)
    )
    assert torch.equal(cached[:, :17], whole[:, :17]) and not torch.equal(cached, whole)
    assert torch.equal(ours.generate(x, mask, eos_token_id=[], **settings), whole)


def adds_positions(model_type: str) -> bool:
    """Whether vectors of positions are added, so that other positions are other logits."""
    return ArchitectureParameter.from_huggingface(raw(model_type)).embedding.positions is not None


COUNTING = [name for name in MODEL_TYPES if quirks(name).counts_slots and adds_positions(name)]


@pytest.mark.parametrize("model_type", COUNTING)
@torch.no_grad()
def test_a_decoder_alone_counts_pads(model_type: str) -> None:
    """Positions are counted over slots, and those of the call swallowed; ours takes what it is given."""
    theirs, ours = pair(model_type)
    x, mask = ids(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, :5] = 0
    positions = positions_of(mask)
    alone = theirs(x[:, 5:], use_cache=False).logits
    padded = theirs(x, attention_mask=mask, position_ids=positions, use_cache=False).logits
    assert same(padded, theirs(x, attention_mask=mask, use_cache=False).logits)
    assert furthest(padded[:, 5:], alone) > 1e-2
    assert furthest(ours(x, attention_mask=mask, position_ids=positions).logits[:, 5:], alone) < 1e-5


@torch.no_grad()
def test_a_cache_has_as_many_layers_as_the_encoder() -> None:
    theirs = reference("blenderbot", encoder_layers=1)
    ours = universal(theirs)
    side, x, cache = Reference(theirs), ids(1, 12), ours.new_cache()
    with pytest.raises(IndexError):
        side(x[:, :7], cache=side.new_cache())
    pieces = [ours(piece, cache=cache).logits for piece in x.split([7, 5], dim=1)]
    assert furthest(torch.cat(pieces, dim=1), theirs(x, use_cache=False).logits) < 1e-5


@torch.no_grad()
def test_a_window_of_the_cache_alone() -> None:
    theirs = reference("moshi", sliding_window=8)
    ours = universal(theirs)
    side, x, cache = Reference(theirs), ids(1, 24), ours.new_cache()
    kept, full = side.new_cache(), theirs(x, use_cache=False).logits
    found = torch.cat([side(piece, cache=kept) for piece in x.split([12, 6, 6], dim=1)], dim=1)
    assert furthest(found, full) > 1e-2
    mine = torch.cat([ours(piece, cache=cache).logits for piece in x.split([12, 6, 6], dim=1)], dim=1)
    assert same(ours(x).logits, full) and furthest(mine, full) < 1e-5


@pytest.mark.parametrize("model_type", ["roberta", "xlm-roberta-xl"])
def test_given_positions_are_rows_and_generation_gives_the_first(model_type: str) -> None:
    """A text has other logits when its positions are said, and other ids when it is generated."""
    theirs, ours = pair(model_type)
    x = torch.where(ids(1, 12) == 1, 2, ids(1, 12))
    positions = torch.arange(12)[None]
    with torch.no_grad():
        plain = theirs(x, use_cache=False).logits
        assert furthest(theirs(x, position_ids=positions, use_cache=False).logits, plain) > 0.1
        assert same(theirs(x, position_ids=positions + 2, use_cache=False).logits, plain)
        assert same(ours(x).logits, plain) and same(ours(x, position_ids=positions).logits, plain)
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "use_cache": False}
    greedy = x
    with torch.no_grad():
        for _ in range(6):
            chosen = ours(greedy, position_ids=torch.arange(greedy.shape[1])[None]).logits[:, -1:].argmax(-1)
            greedy = torch.cat([greedy, chosen], dim=1)
    assert same(ours.generate(x, eos_token_id=[], **settings), greedy)
    assert not same(theirs.generate(x, eos_token_id=None, **settings), greedy)


def test_a_cached_mask_is_shifted_by_an_image_that_is_not_there() -> None:
    """GIT without an image: a pad that the prompt hid is seen by the steps after it."""
    theirs, ours = pair("git")
    x, mask = ids(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, :4] = 0
    positions = positions_of(mask)
    with torch.no_grad():
        side, cache, kept = Reference(theirs), ours.new_cache(), DynamicCache(config=theirs.config)
        alone = theirs(x[:, 4:], use_cache=False).logits[:, -1]
        ours(x[:, :11], mask[:, :11], positions[:, :11], cache=cache)
        side(x[:, :11], mask=mask[:, :11], positions=positions[:, :11], cache=kept)
        mine = ours(x[:, 11:], mask, positions[:, 11:], cache=cache).logits[:, -1]
        their = side(x[:, 11:], mask=mask, positions=positions[:, 11:], cache=kept)[:, -1]
    assert furthest(mine, alone) < 1e-4 < 0.1 < furthest(their, alone)


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["llama4_text", "inkling_text"])
def test_queries_grow_with_slots(model_type: str) -> None:
    """Llama 4 takes given positions for its rotation only; elsewhere pads on the left move the steps of a scale."""
    theirs = reference(model_type, **({"log_scaling_n_floor": 3} if model_type == "inkling_text" else {}))
    ours = universal(theirs)
    x, mask = ids(1, 12), torch.ones(1, 12, dtype=torch.long)
    mask[0, :5] = 0
    call = {"attention_mask": mask, "position_ids": positions_of(mask)}
    alone = theirs(x[:, 5:], use_cache=False).logits
    assert furthest(theirs(x, **call, use_cache=False).logits[:, 5:], alone) > 1e-3
    assert furthest(ours(x, **call).logits[:, 5:], alone) < 1e-5


@torch.no_grad()
def test_a_base_beside_the_attention_is_not_used() -> None:
    """DBRX publishes its rotation's base in `attn_config`; the reference turns by that of `rope_parameters`."""
    given = dict(explicit("dbrx")["attn_config"])
    logits = [
        reference("dbrx", attn_config=given | {"rope_theta": theta})(ids(1, 24)).logits for theta in (10000.0, 100.0)
    ]
    assert same(*logits)
    assert not same(logits[0], reference("dbrx", rope_parameters=PLAIN | {"rope_theta": 100.0})(ids(1, 24)).logits)


def test_a_scaling_beside_its_base_is_overlooked() -> None:
    """A class that declares `rope_scaling` as a field of its own keeps it from the reference's conversion."""
    scaled = {"rope_theta": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    assert config("cohere2_moe", **scaled).rope_parameters == {"rope_type": "default", "rope_theta": 500.0}
    with pytest.raises(UnsupportedConfig, match="rope_scaling"):
        ArchitectureParameter.from_huggingface(raw("cohere2_moe", **scaled))


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["mpt", "inkling2_text"])
def test_biases_count_pads_between_tokens(model_type: str) -> None:
    """A prompt padded on the right and continued is not the prompt continued; ours is."""
    theirs = reference(model_type, **({"layer_types": ["hybrid"] * 3} if model_type == "inkling2_text" else {}))
    ours = universal(theirs)
    x, pads = ids(1, 12), torch.zeros(1, 5, dtype=torch.long)
    padded = torch.cat([x[:, :8], pads, x[:, 8:]], dim=1)
    mask = torch.cat([torch.ones(1, 8), torch.zeros(1, 5), torch.ones(1, 4)], dim=1).long()
    alone, cache = ours(x).logits[:, 8:], ours.new_cache()
    ours(padded[:, :13], attention_mask=mask[:, :13], cache=cache)
    assert furthest(ours(padded[:, 13:], attention_mask=mask, cache=cache).logits, alone) < 1e-5
    assert furthest(theirs(padded, attention_mask=mask).logits[:, 13:], alone) > 1e-3


@torch.no_grad()
def test_one_choice_per_token() -> None:
    """LongCat-Flash: one axis too many is squeezed away where a token makes one choice."""
    theirs = reference("longcat_flash", num_experts_per_tok=1)
    with pytest.raises(ValueError, match="unpack"):
        theirs(ids(1, 6))
    assert universal(theirs)(ids(1, 6)).logits.isfinite().all()


@torch.no_grad()
def test_experts_that_see_later_tokens() -> None:
    """Doge: with experts the first token's logits depend on a token in the middle; n cannot say that."""
    mixing = {"is_moe": True, "num_experts": 16, "num_experts_per_tok": 3}
    theirs, x = reference("doge", **mixing), ids(1, 6)
    other = x.clone()
    other[:, 3] = (x[:, 3] + 1) % 97
    assert furthest(theirs(x).logits[:, 0], theirs(other).logits[:, 0]) > 1e-3
    with pytest.raises(UnsupportedConfig, match="is_moe"):
        ArchitectureParameter.from_huggingface(raw("doge", **mixing))


def test_a_first_layer_without_keys_hides_a_caches_length() -> None:
    """MiniMax: what lies in its cache is counted in layer 0, which is lightning attention as published."""
    theirs = reference("minimax", layer_types=["linear_attention", "full_attention", "linear_attention"])
    ours, x = universal(theirs), ids(1, 20)
    with torch.no_grad():
        whole, cache, mine = theirs(x, use_cache=False).logits, Reference(theirs).new_cache(), ours.new_cache()
        pieces = [theirs(piece, past_key_values=cache).logits for piece in x.split([19, 1], dim=1)]
        assert cache.get_seq_length() == 0
        assert furthest(torch.cat(pieces, dim=1), whole) > 1e-2
        assert furthest(torch.cat([ours(p, cache=mine).logits for p in x.split([19, 1], dim=1)], dim=1), whole) < 1e-4


def test_a_second_piece_is_convolved_as_the_first() -> None:
    """RecurrentGemma: single steps go on from what was read, several tokens at once do not."""
    theirs, ours = pair("recurrent_gemma")
    x, mine = ids(1, 20), ours.new_cache()
    with torch.no_grad():
        whole, cache = theirs(x, use_cache=False).logits, DynamicCache(config=theirs.config)
        pieces = [theirs(piece, past_key_values=cache).logits for piece in x.split([10, 10], dim=1)]
        assert furthest(torch.cat(pieces, dim=1), whole) > 1e-2
        assert furthest(torch.cat([ours(p, cache=mine).logits for p in x.split([10, 10], dim=1)], dim=1), whole) < 1e-4


@pytest.mark.parametrize("model_type", ["zamba", "zamba2"])
def test_untying_the_head_unties_the_shared_blocks(model_type: str) -> None:
    """Weights that layers share are declared as tied ones, and go with them."""
    for tied in (True, False):
        theirs = reference(model_type, tie_word_embeddings=tied, **({"num_mem_blocks": 1} if "2" in model_type else {}))
        state = theirs.state_dict()
        owners = {
            t.data_ptr() for name, t in state.items() if name.endswith("input_layernorm.weight") and "shared" in name
        }
        assert (len(owners) == 1) == tied
        assert same(universal(theirs)(ids(1, 9)).logits, theirs(ids(1, 9), use_cache=False).logits)


def test_blocks_of_keys_are_counted_from_the_pads() -> None:
    """MiniMax-M3: a row behind five pads, where blocks are of eight keys, sees other blocks than the row alone."""
    theirs = reference("minimax_m3_vl_text")
    ours, tokens = universal(theirs), ids(1, 40)
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), tokens], dim=1)
    mask = torch.cat([torch.zeros(1, 5, dtype=torch.long), torch.ones_like(tokens)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        alone = theirs(tokens, use_cache=False).logits
        given = {"attention_mask": mask, "position_ids": positions}
        assert furthest(theirs(padded, **given, use_cache=False).logits[:, 5:], alone) > 0.01
        assert furthest(ours(padded, **given).logits[:, 5:], alone) < 1e-5


@pytest.mark.parametrize(("model_type", "place"), [("gptj", "h.0.attn"), ("codegen", "h.0.attn")])
def test_a_table_depends_on_how_a_model_is_made(model_type: str, place: str, tmp_path: Path) -> None:
    built = AutoModelForCausalLM.from_config(config(model_type), dtype=torch.bfloat16)
    built.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    tables = [model.transformer.get_submodule(place).embed_positions.float() for model in (built, loaded)]
    assert (tables[0] - tables[1]).abs().max() > 1e-3
    ours = UniversalTransformer.from_pretrained(tmp_path, dtype="bfloat16")
    turned = ours.plan.ropes[0](torch.arange(20)[None], torch.float32)
    half = tables[1].shape[1] // 2
    assert same(turned[1][0, :, ::2], tables[1][:20, :half]) and same(turned[0][0, :, ::2], tables[1][:20, half:])


def test_a_bias_is_overwritten_behind_the_file(tmp_path: Path) -> None:
    saved = reference("zaya")
    saved.save_pretrained(tmp_path)
    loaded = type(saved).from_pretrained(tmp_path)
    biases = [model.model.layers[0].mlp.gate.balancing_biases for model in (saved, loaded)]
    assert same(biases[0][:-1], biases[1][:-1]) and biases[0][-1] != -1.0 == biases[1][-1]
    ours = UniversalTransformer.from_pretrained(tmp_path)
    assert same(ours.get_buffer("layers.0.experts.router.selection_bias"), biases[0])
