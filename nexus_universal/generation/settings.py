"""How text is generated: a checkpoint's generation_config.json, with what a call says in front of it."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from nexus_universal.architecture.errors import InputError, UnsupportedConfig
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import CONFIG_NAME, load_json
from nexus_universal.generation.keys import NEUTRAL, TAKEN, WITHOUT_EFFECT, refused

GENERATION_CONFIG = "generation_config.json"
DEFAULT_NEW_TOKENS = 20

KINDS: dict[str, tuple[type, ...]] = {
    "max_new_tokens": (int,),
    "max_length": (int,),
    "do_sample": (bool,),
    "temperature": (float, int),
    "top_k": (int,),
    "top_p": (float, int),
    "min_p": (float, int),
    "repetition_penalty": (float, int),
    "eos": (int, list),
    "pad": (int,),
    "bos": (int,),
    "stop_strings": (str, list),
    "use_cache": (bool,),
}


class CallSettings(TypedDict, total=False):
    """What a call of `generate` may set; what is missing or None comes from the checkpoint's own settings.

    `top_k` 0, `top_p` 1 and `repetition_penalty` 1 switch those off; `eos_token_id` [] lets nothing end the text early.
    `seed` makes sampling repeatable: the ids are those after `torch.manual_seed(seed)`, whose state is left alone.
    """

    max_new_tokens: int | None
    max_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    bos_token_id: int | None
    stop_strings: str | Sequence[str] | None
    use_cache: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSettings:
    """The reference's defaults. `raw` is the file's own JSON, kept for saving; `others` are keys without a field here.

    Example:
        >>> GenerationSettings.of(n).updated({"max_new_tokens": 12, "eos_token_id": [2, 7]}).eos
        (2, 7)
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    eos: tuple[int, ...] = ()
    pad: int | None = None
    bos: int | None = None
    stop_strings: tuple[str, ...] = ()
    use_cache: bool = True
    seed: int | None = None
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    others: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    source: str = field(default="this call", compare=False, repr=False)

    @classmethod
    def of(cls, n: ArchitectureParameter) -> GenerationSettings:
        """The settings of a model without a file: the special tokens that its config names."""
        text = n.text
        return cls(eos=text.eos, pad=text.pad, bos=text.bos, use_cache=text.use_cache)

    @classmethod
    def load(cls, path: str | PathLike[str], n: ArchitectureParameter) -> GenerationSettings:
        """Read a generation_config.json. Where there is none, config.json's own keys count, as in the reference.

        Raises:
            CheckpointError: the file is not a JSON object.
            UnsupportedConfig: a value of the wrong type, named.
        """
        file = Path(path)
        if file.is_file():
            raw = load_json(file)
            return cls._read(raw, source=file.name, raw=raw)
        if n.origin.config is None:
            return cls.of(n)
        return cls._read(json.loads(n.origin.config), source=CONFIG_NAME, raw={})

    @classmethod
    def _read(cls, values: Mapping[str, Any], *, source: str, raw: dict[str, Any]) -> GenerationSettings:
        fields = {
            TAKEN[key]: _typed(key, value, source)
            for key, value in values.items()
            if key in TAKEN and value is not None
        }
        others = {key: value for key, value in values.items() if key in NEUTRAL}
        return cls(**fields, raw=raw, others=others, source=source)

    def updated(self, call: Mapping[str, Any]) -> GenerationSettings:
        """These settings with those of a call in front.

        Raises:
            InputError: a name that no setting has, or a value of the wrong type.
        """
        fields: dict[str, Any] = {}
        others = dict(self.others)
        for key, value in call.items():
            if key == "seed":
                fields["seed"] = value
            elif key in TAKEN:
                if value is not None:
                    fields[TAKEN[key]] = _typed(key, value, None)
            elif key in NEUTRAL:
                others[key] = value
            elif key not in WITHOUT_EFFECT:
                known = [*TAKEN, "seed"]
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"{key} is not a setting of generate ({hint}known: {', '.join(known)})")
        updated = replace(self, **fields, others=others)
        if "max_length" in fields and updated.max_new_tokens is not None:
            message = (
                f"max_length = {updated.max_length} is without effect: max_new_tokens = {updated.max_new_tokens} counts"
            )
            warnings.warn(message, stacklevel=3)
        return updated

    def validate(self) -> GenerationSettings:
        """Return self.

        Raises:
            UnsupportedConfig: a key is set that would change the ids in a way that is not done here (beam search ...).
            InputError: a value out of range, named with what would be allowed.
        """
        for key, value, neutral in refused(self.others, sampling=self.do_sample):
            known = ", ".join(map(repr, (*neutral, None)))
            raise UnsupportedConfig(
                f"{self.source}: {key} = {value!r} is not supported (known: {known}); pass {key}=None to do without"
            )
        for name, value, fits, allowed in (
            ("max_new_tokens", self.max_new_tokens, _at_least(1), "at least 1"),
            ("max_length", self.max_length, _at_least(1), "at least 1"),
            (
                "temperature",
                self.temperature,
                lambda v: 0 < v < float("inf"),
                "greater than 0; do_sample=False is greedy",
            ),
            ("top_k", self.top_k, _at_least(0), "at least 0; 0 keeps all"),
            ("top_p", self.top_p, lambda v: 0 <= v <= 1, "in [0, 1]; 1 keeps all"),
            ("min_p", self.min_p, lambda v: 0 <= v <= 1, "in [0, 1]"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                lambda v: 0 < v < float("inf"),
                "greater than 0; 1 is none",
            ),
        ):
            if value is not None and not fits(value):
                raise InputError(f"{name} = {value!r} must be {allowed}")
        if self.seed is not None and (type(self.seed) is not int or not -(2**63) <= self.seed < 2**64):
            raise InputError(f"seed = {self.seed!r} must be a whole number of at most 64 bits")
        if "" in self.stop_strings:
            raise InputError("stop_strings holds an empty string: every text contains it")
        return self

    @property
    def fill(self) -> int | None:
        """What finished rows are filled with: the pad, or the first end-of-text id."""
        return self.pad if self.pad is not None else next(iter(self.eos), None)

    def limit(self, prompt: int, context: int | None) -> int:
        """The length, prompt included, at which every row ends.

        Raises:
            InputError: it leaves no room for a new token.
        """
        if self.max_new_tokens is not None:
            return prompt + self.max_new_tokens
        if self.max_length is not None:
            if self.max_length <= prompt:
                raise InputError(
                    f"the prompt has {prompt} tokens, max_length = {self.max_length} leaves no room for more"
                )
            return self.max_length
        limit = prompt + DEFAULT_NEW_TOKENS
        limit = limit if context is None else min(limit, context)
        if limit <= prompt:
            raise InputError(
                f"the prompt has {prompt} tokens, all of the context of {context}: set max_new_tokens to go on"
            )
        return limit


def _at_least(least: int) -> Any:
    return lambda value: value >= least


def _typed(key: str, value: Any, source: str | None) -> Any:
    """A value in the form of its field.

    Raises:
        UnsupportedConfig: the wrong type, in a file.
        InputError: the wrong type, in a call.
    """
    name = TAKEN[key]
    kinds = KINDS[name]
    if list in kinds and isinstance(value, tuple):
        value = list(value)
    items = value if isinstance(value, list) else [value]
    single = kinds[:1] if list in kinds else kinds
    if (isinstance(value, list) and list not in kinds) or any(type(item) not in single for item in items):
        allowed = " or ".join(kind.__name__ for kind in single) + (", or a list of them" if list in kinds else "")
        message = f"{key} = {value!r} must be of type {allowed}"
        raise InputError(message) if source is None else UnsupportedConfig(f"{source}: {message}")
    if list in kinds:
        return tuple(items)
    return float(items[0]) if float in kinds else value
