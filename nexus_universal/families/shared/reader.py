"""Reading a config so that nothing is overlooked: a key is taken, inert, irrelevant, ignored on request, or refused."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nexus_universal.architecture.errors import UnsupportedConfig

REQUIRED: Any = object()

TRAINING = "used in training only"
OUTPUT = "chooses what a call returns, not what it computes"
LABELS = "names classification labels"
PROVENANCE = "says where the file comes from"
GENERATION = "a default of generation, read from there"
CODE = "names remote code, which is never executed"

IRRELEVANT: dict[str, str] = {
    **dict.fromkeys(
        ("_name_or_path", "transformers_version", "architectures", "model_type", "_commit_hash"), PROVENANCE
    ),
    **dict.fromkeys(("name_or_path", "license", "language_model_only"), PROVENANCE),
    **dict.fromkeys(("auto_map",), CODE),
    **dict.fromkeys(("output_attentions", "output_hidden_states", "return_dict", "use_return_dict"), OUTPUT),
    **dict.fromkeys(("torchscript", "tie_last_hidden_states", "output_router_logits"), OUTPUT),
    **dict.fromkeys(("id2label", "label2id", "problem_type", "num_labels", "finetuning_task"), LABELS),
    **dict.fromkeys(("attention_dropout", "hidden_dropout", "router_aux_loss_coef", "router_jitter_noise"), TRAINING),
    **dict.fromkeys(("use_bfloat16", "tf_legacy_loss", "gradient_checkpointing"), TRAINING),
    **dict.fromkeys(("quantization_config", "compression_config"), "the checkpoint's business, not n's"),
    **dict.fromkeys(("tokenizer_class", "prefix", "task_specific_params", "sep_token_id"), "speaks of the tokenizer"),
    **dict.fromkeys(("decoder_start_token_id",), "speaks of encoder-decoders"),
    **dict.fromkeys(
        [
            "max_length",
            "min_length",
            "do_sample",
            "early_stopping",
            "num_beams",
            "temperature",
            "top_k",
            "top_p",
            "typical_p",
            "repetition_penalty",
            "length_penalty",
            "no_repeat_ngram_size",
            "encoder_no_repeat_ngram_size",
            "bad_words_ids",
            "num_return_sequences",
            "output_scores",
            "return_dict_in_generate",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "remove_invalid_values",
            "exponential_decay_length_penalty",
            "suppress_tokens",
            "begin_suppress_tokens",
            "num_beam_groups",
            "diversity_penalty",
        ],
        GENERATION,
    ),
}
"""Keys that change no logit in any family, with the reason."""

INERT: dict[str, tuple[Any, ...]] = {
    "chunk_size_feed_forward": (0,),
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "attn_implementation": (None, "sdpa"),
    "_attn_implementation": (None, "sdpa"),
    "_attn_implementation_autoset": (False, True),
    "experts_implementation": (None, "grouped_mm"),
    "is_causal": (True,),
}
"""Keys that change nothing at these values, in any family; other values are refused."""


class ConfigReader:
    """Hands out the values of one config and remembers which were asked for."""

    def __init__(
        self,
        family: str,
        values: Mapping[str, Any],
        *,
        path: str = "",
        irrelevant: Mapping[str, str] | None = None,
        ignore_keys: Collection[str] = (),
        spelled: Mapping[str, str] | None = None,
    ) -> None:
        self.family = family
        self.values = dict(values)
        self.path = path
        self.irrelevant = {**IRRELEVANT, **(irrelevant or {})} if not path else dict(irrelevant or {})
        self.ignore_keys = ignore_keys
        self.spelled = spelled or {}
        self.whole = not path
        self.taken: set[str] = set()
        self.sections: list[ConfigReader] = []

    def refuse(self, key: str, value: Any, expected: str) -> UnsupportedConfig:
        """The error for a value this family cannot express, its key as the config spells it; the caller raises it."""
        return UnsupportedConfig(f"{self.family}: {self.path}{self.spelled.get(key, key)} = {value!r} ({expected})")

    def require(self, holds: bool, key: str, value: Any, expected: str) -> None:
        """Insist on what several keys together must fulfil.

        Raises:
            UnsupportedConfig: it does not hold.
        """
        if not holds:
            raise self.refuse(key, value, expected)

    def agree(self, key: str, value: Any, implied: Any) -> None:
        """Insist that a key's value is what other keys imply.

        Raises:
            UnsupportedConfig: it is not.
        """
        self.require(value == implied, key, value, f"must be {implied}, as the other keys imply")

    def take(
        self,
        key: str,
        default: Any = REQUIRED,
        *,
        known: Iterable[Any] | Mapping[Any, Any] | None = None,
        kinds: tuple[type, ...] | None = None,
    ) -> Any:
        """The value of `key`, or the reference class's default.

        `known` limits the values, a mapping also translates them. The type must be the default's, or one of `kinds`; an
        int stands for a float where the default is one.

        Raises:
            UnsupportedConfig: the key is missing without default, has the wrong type, or a value that is not known.
        """
        self.taken.add(key)
        if key not in self.values and default is REQUIRED:
            raise UnsupportedConfig(f"{self.family}: {self.path}{key} is missing")
        value = self.values.get(key, default)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if kinds is None and default is not REQUIRED and default is not None:
            kinds = (type(default),)
        if kinds is not None and type(value) not in kinds:
            raise self.refuse(key, value, f"must be of type {' or '.join(kind.__name__ for kind in kinds)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.refuse(key, value, "must be finite")
        if known is not None:
            if not isinstance(value, str | int | float | bool | None) or value not in known:
                raise self.refuse(key, value, f"known: {', '.join(map(str, known))}")
            return known[value] if isinstance(known, Mapping) else value
        return value

    def count(self, key: str, default: Any = REQUIRED, *, optional: bool = False) -> Any:
        """A whole number of at least 1; with `optional`, null (or a key without default that is missing) is None.

        Raises:
            UnsupportedConfig: anything else.
        """
        value = self.take(key, None if optional and default is REQUIRED else default, kinds=(int, type(None)))
        if value is None and optional:
            return None
        if value is None or value < 1:
            raise self.refuse(key, value, "must be a whole number of at least 1")
        return value

    def number(self, key: str, default: Any = REQUIRED, *, optional: bool = False) -> Any:
        """A number as a float; null is None where the default is, or with `optional`.

        Raises:
            UnsupportedConfig: anything else.
        """
        value = self.take(key, default, kinds=(int, float, type(None)) if optional or default is None else (int, float))
        return None if value is None else float(value)

    def numbers(self, key: str, default: Any = REQUIRED, *, length: int | None = None) -> tuple[float, ...]:
        """A list of numbers, `length` of them; infinite ones are allowed.

        Raises:
            UnsupportedConfig: missing, or anything else.
        """
        value = self.take(key, default, kinds=(list, tuple))
        if not all(type(item) in (int, float) and item == item for item in value):
            raise self.refuse(key, value, "must be a list of numbers")
        if length is not None and len(value) != length:
            raise self.refuse(key, value, f"must hold {length} numbers")
        return tuple(map(float, value))

    def names(self, key: str, *, length: int, known: Collection[Any]) -> tuple[Any, ...] | None:
        """A list of one name (or flag, 0 or 1) per layer, or None where the key is missing or null.

        Raises:
            UnsupportedConfig: the wrong length, or a name that is not known.
        """
        value = self.take(key, None, kinds=(list, type(None)))
        if value is None:
            return None
        if len(value) != length:
            raise self.refuse(f"len({key})", len(value), f"must be the number of layers, {length}")
        for index, name in enumerate(value):
            if not isinstance(name, str | int) or name not in known:
                raise self.refuse(f"{key}[{index}]", name, f"known: {', '.join(map(str, known))}")
        return tuple(value)

    def indices(self, key: str, default: list[int] | None = None, *, length: int) -> tuple[int, ...]:
        """A list of different layers by their index, of `length` there are; null is none.

        Raises:
            UnsupportedConfig: anything else.
        """
        value = self.take(key, default, kinds=(list, type(None))) or []
        if any(type(index) is not int or not 0 <= index < length for index in value) or len(set(value)) < len(value):
            raise self.refuse(key, value, f"must list different layers, each from 0 to {length - 1}")
        return tuple(value)

    def layer_numbers(self, key: str, *, length: int) -> tuple[float, ...] | None:
        """A list of one number per layer, or None where the key is missing or null.

        Raises:
            UnsupportedConfig: anything else, or the wrong length.
        """
        value = self.take(key, None, kinds=(list, type(None)))
        if value is None:
            return None
        if not all(type(item) in (int, float) and math.isfinite(item) for item in value):
            raise self.refuse(key, value, "must be a list of numbers")
        if len(value) != length:
            raise self.refuse(f"len({key})", len(value), f"must be the number of layers, {length}")
        return tuple(map(float, value))

    def layer_counts(self, key: str, default: int, *, length: int) -> tuple[int, ...]:
        """A whole number of at least 1 for each layer: a list of them, or one for all.

        Raises:
            UnsupportedConfig: anything else, or the wrong length.
        """
        value = self.take(key, default, kinds=(int, list))
        counts = value if isinstance(value, list) else [value] * length
        if len(counts) != length:
            raise self.refuse(f"len({key})", len(counts), f"must be the number of layers, {length}")
        if any(type(count) is not int or count < 1 for count in counts):
            raise self.refuse(key, value, "must be whole numbers of at least 1")
        return tuple(counts)

    def inert(self, key: str, *values: Any) -> None:
        """A key that changes nothing at these values, or at any where the family says that it is irrelevant.

        Raises:
            UnsupportedConfig: any other value.
        """
        self.taken.add(key)
        if key in self.values and key not in self.irrelevant and self.values[key] not in values:
            raise self.refuse(key, self.values[key], f"known: {', '.join(map(repr, values))}")

    def section(self, key: str) -> ConfigReader:
        """A reader of the dict under `key`, whose keys are accounted for together with this reader's.

        Raises:
            UnsupportedConfig: the value is no dict.
        """
        value = self.take(key)
        if not isinstance(value, dict):
            raise self.refuse(key, value, "must be a JSON object")
        inner = type(self)(self.family, value, path=f"{self.path}{key}.", ignore_keys=self.ignore_keys)
        self.sections.append(inner)
        return inner

    def config(self, key: str, *, irrelevant: Mapping[str, str]) -> ConfigReader:
        """A reader of another family's whole config under `key`: what changes no logit there changes none here.

        Raises:
            UnsupportedConfig: the value is no dict.
        """
        inner = self.section(key)
        inner.whole = True
        inner.irrelevant = {**IRRELEVANT, **irrelevant}
        del inner.irrelevant["model_type"]  # here it chooses a class
        return inner

    def finish(self) -> tuple[str, ...]:
        """Account for every key; returns those that were ignored on request.

        Raises:
            UnsupportedConfig: naming the first key that nobody accounts for.
        """
        ignored: list[str] = []
        for key in self.values:
            full = self.path + key
            if key in self.taken or key in self.irrelevant:
                continue
            if full in self.ignore_keys:
                ignored.append(full)
            elif self.whole and key in INERT:
                self.inert(key, *INERT[key])
            else:
                raise UnsupportedConfig(
                    f"{self.family}: {full} = {self.values[key]!r} is not a key of this family "
                    f"(--ignore-key {full} to load all the same)"
                )
        for section in self.sections:
            ignored += section.finish()
        return tuple(ignored)
