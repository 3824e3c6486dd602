"""Every key of a generation_config.json: taken, without effect here, or refused at any value but its neutral one."""

from __future__ import annotations

from typing import Any

TAKEN = {
    "max_new_tokens": "max_new_tokens",
    "max_length": "max_length",
    "do_sample": "do_sample",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "eos_token_id": "eos",
    "pad_token_id": "pad",
    "bos_token_id": "bos",
    "stop_strings": "stop_strings",
    "use_cache": "use_cache",
}
"""From the file's name to the field of `GenerationSettings`."""

ALWAYS: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "num_return_sequences": (1,),
    "constraints": (),
    "force_words_ids": (),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "remove_invalid_values": (False,),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "renormalize_logits": (False,),
    "watermarking_config": (),
    "token_healing": (False,),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "assistant_ensemble_weight": (),
    "speculation_type": (),
    "use_mtp": (False,),
    "dola_layers": (),
    "cache_implementation": (
        "dynamic",
        "static",
        "hybrid",
        "hybrid_chunked",
        "sliding_window",
        "offloaded",
        "offloaded_static",
        "offloaded_hybrid",
    ),
}
"""Keys that change which ids come out, and the values (besides null) at which they do not: others are refused."""

SAMPLING: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "top_h": (),
}
"""The same, for keys that count only while sampling."""

GREEDY: dict[str, tuple[Any, ...]] = {"penalty_alpha": (0.0,)}
"""The same, for keys that count only while not sampling."""

NEUTRAL = ALWAYS | SAMPLING | GREEDY

WITHOUT_EFFECT: dict[str, str] = {
    **dict.fromkeys(("early_stopping", "length_penalty", "diversity_penalty", "low_memory"), "counts with beams only"),
    **dict.fromkeys(
        [
            "is_assistant",
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "assistant_confidence_threshold",
            "assistant_lookbehind",
            "target_lookbehind",
            "max_matching_ngram_size",
        ],
        "counts with a draft model only",
    ),
    **dict.fromkeys(
        ["output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"],
        "chooses what is returned besides ids",
    ),
    **dict.fromkeys(
        [
            "cache_config",
            "max_cache_len",
            "prefill_chunk_size",
            "compile_config",
            "disable_compile",
            "continuous_batching_config",
        ],
        "says how it is computed, not what",
    ),
    **dict.fromkeys(("decoder_start_token_id",), "speaks of encoder-decoders"),
    **dict.fromkeys(("transformers_version", "_from_model_config", "_commit_hash"), "says where the file comes from"),
}
"""Keys that change no id, with the reason."""


def refused(values: dict[str, Any], *, sampling: bool) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """(key, value, neutral values) of every key that would change the ids in a way that is not done here."""
    counted = ALWAYS | (SAMPLING if sampling else GREEDY)
    return [
        (key, value, counted[key])
        for key, value in values.items()
        if key in counted and value is not None and value not in counted[key]
    ]
