"""What a merge is asked to be: mergekit's YAML, read into dataclasses, every key known or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from nexus_universal.architecture.errors import InputError

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Conditional:
    """A value for tensors one of whose names (canonical or published) holds `filter`; None and "*" are all."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None


Setting = Scalar | tuple[Scalar, ...] | tuple[Conditional, ...]
"""A value, a gradient over the layers (equidistant numbers, interpolated), or either of them by tensor name."""

Settings = Mapping[str, Setting]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model, the half-open range of its layers that is taken (all where None), and its own parameters."""

    model: str
    layers: tuple[int, int] | None = None
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Layers of the result, and what they are merged from."""

    sources: tuple[Source, ...]
    parameters: Settings = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A merge. `tokenizer` is None (all must agree), "base", "union", or one of the models.

    Beside mergekit's keys: `align` permutes each model's hidden units, heads and experts to lie as the base's (or the
    first model's) before anything is merged, and `seed` is that of methods that draw.

    Example:
        >>> recipe = Recipe.of({"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}],
        ...                     "parameters": {"weight": 0.5}})
        >>> recipe.models
        ('a', 'b')
    """

    method: str
    slices: tuple[Slice, ...]
    base: str | None = None
    parameters: Settings = field(default_factory=dict)
    dtype: str | None = None
    tokenizer: str | None = None
    pad_to_multiple_of: int | None = None
    align: bool = False
    seed: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        """Every model by the name that the recipe gives it, the base first, then in the order of appearance."""
        named = [source.model for each in self.slices for source in each.sources]
        return tuple(dict.fromkeys([self.base, *named] if self.base else named))

    @classmethod
    def read(cls, path: str | PathLike[str]) -> Recipe:
        """The recipe in a YAML file.

        Raises:
            InputError: not YAML, or not a recipe.
        """
        import yaml

        try:
            return cls.of(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not YAML ({' '.join(str(error).split())})") from None

    @classmethod
    def of(cls, data: Any) -> Recipe:
        """The recipe that nested dicts and lists spell.

        Raises:
            InputError: a key that is not known, or a value of another kind, by name.
        """
        raw = _mapping(data, "the recipe")
        known = {"merge_method", "models", "slices", "base_model", "parameters", "dtype", "out_dtype", "align", "seed"}
        _refuse_unknown(raw, known | {"tokenizer_source", "tokenizer"}, "")
        if not isinstance(raw.get("merge_method"), str):
            raise InputError("merge_method is missing: it names a method, such as linear")
        if ("models" in raw) == ("slices" in raw):
            raise InputError("give either models or slices")
        if "models" in raw:
            sources = tuple(_source(item, f"models.{i}") for i, item in enumerate(_list(raw["models"], "models")))
            if any(source.layers for source in sources):
                raise InputError("models take whole models: layer_range belongs to slices.sources")
            slices: tuple[Slice, ...] = (Slice(sources=sources),)
        else:
            slices = tuple(_slice(item, f"slices.{i}") for i, item in enumerate(_list(raw["slices"], "slices")))
        tokenizer, multiple = _tokenizer(raw)
        return cls(
            method=raw["merge_method"],
            slices=slices,
            base=None if raw.get("base_model") is None else _model(raw["base_model"], "base_model"),
            parameters=_settings(raw.get("parameters"), "parameters"),
            dtype=_typed(raw.get("out_dtype") or raw.get("dtype"), str, "dtype"),
            tokenizer=tokenizer,
            pad_to_multiple_of=multiple,
            align=_typed(raw.get("align"), bool, "align") or False,
            seed=_typed(raw.get("seed"), int, "seed") or 0,
        )


def evaluated(setting: Setting, *, names: Collection[str], depth: float) -> Scalar | None:
    """The value for a tensor of these names at a relative `depth` from 0 to 1; None where no filter fits."""
    if not isinstance(setting, tuple):
        return setting
    if setting and isinstance(setting[0], Conditional):
        for each in setting:
            assert isinstance(each, Conditional)
            if each.filter in (None, "*") or any(each.filter in name for name in names):
                return evaluated(each.value, names=names, depth=depth)
        return None
    numbers = [value for value in setting if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(setting):
        return setting[int(depth * (len(setting) - 1))]  # type: ignore[return-value]
    place = depth * (len(numbers) - 1)
    before = min(int(place), len(numbers) - 1)
    after = min(before + 1, len(numbers) - 1)
    return numbers[before] + (place - before) * (numbers[after] - numbers[before])


def _slice(data: Any, where: str) -> Slice:
    raw = _mapping(data, where)
    _refuse_unknown(raw, {"sources", "parameters"}, where)
    sources = [
        _source(item, f"{where}.sources.{i}") for i, item in enumerate(_list(raw.get("sources"), f"{where}.sources"))
    ]
    for index, source in enumerate(sources):
        if source.layers is None:
            raise InputError(f"{where}.sources.{index}.layer_range is missing: [first, behind the last]")
    return Slice(sources=tuple(sources), parameters=_settings(raw.get("parameters"), f"{where}.parameters"))


def _source(data: Any, where: str) -> Source:
    raw = _mapping(data, where)
    _refuse_unknown(raw, {"model", "layer_range", "parameters"}, where)
    span = raw.get("layer_range")
    if span is not None:
        whole = isinstance(span, list) and len(span) == 2 and all(type(item) is int for item in span)
        if not whole or not 0 <= span[0] < span[1]:
            raise InputError(f"{where}.layer_range = {span!r} must be [first, behind the last]")
    return Source(
        model=_model(raw.get("model"), f"{where}.model"),
        layers=tuple(span) if span else None,
        parameters=_settings(raw.get("parameters"), f"{where}.parameters"),
    )


def _model(value: Any, where: str) -> str:
    """A directory or a repo id; mergekit's `{model: {path: …}}` says the same."""
    if isinstance(value, dict):
        inner = value.get("model", value)
        if isinstance(inner, dict) and set(inner) == {"path"}:
            return _model(inner["path"], where)
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} = {value!r} must be a directory or a repo id")
    return value


def _tokenizer(raw: Mapping[str, Any]) -> tuple[str | None, int | None]:
    if raw.get("tokenizer") is None:
        chosen = raw.get("tokenizer_source")
        return (None if chosen is None else _model(chosen, "tokenizer_source")), None
    if raw.get("tokenizer_source") is not None:
        raise InputError("give either tokenizer or tokenizer_source")
    settings = _mapping(raw["tokenizer"], "tokenizer")
    _refuse_unknown(settings, {"source", "pad_to_multiple_of"}, "tokenizer")
    multiple = _typed(settings.get("pad_to_multiple_of"), int, "tokenizer.pad_to_multiple_of")
    return _model(settings.get("source", "union"), "tokenizer.source"), multiple


def _settings(data: Any, where: str) -> Settings:
    raw = {} if data is None else _mapping(data, where)
    return {name: _setting(value, f"{where}.{name}") for name, value in raw.items()}


def _setting(value: Any, where: str) -> Setting:
    if isinstance(value, Scalar):
        return _number(value)
    items: list[Any] = [value] if isinstance(value, dict) else value
    if isinstance(items, list) and items and all(isinstance(item, dict) for item in items):
        return tuple(_conditional(item, f"{where}.{index}") for index, item in enumerate(items))
    if isinstance(items, list) and items and all(isinstance(item, Scalar) for item in items):
        return tuple(_number(item) for item in items)
    raise InputError(f"{where} = {value!r} must be a value, a list of values, or a list of {{filter, value}}")


def _conditional(raw: Mapping[str, Any], where: str) -> Conditional:
    _refuse_unknown(raw, {"filter", "value"}, where)
    if "value" not in raw:
        raise InputError(f"{where}.value is missing")
    value = _setting(raw["value"], f"{where}.value")
    if isinstance(value, tuple) and isinstance(value[0], Conditional):
        raise InputError(f"{where}.value must not hold filters of its own")
    return Conditional(value=value, filter=_typed(raw.get("filter"), str, f"{where}.filter"))  # type: ignore[arg-type]


def _number(value: Scalar) -> Scalar:
    """YAML 1.1 reads 1e-5 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must be a mapping, not {type(value).__name__}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} must be a list that is not empty")
    return value


def _typed(value: Any, kind: type, where: str) -> Any:
    if value is not None and type(value) is not kind:
        raise InputError(f"{where} = {value!r} must be of type {kind.__name__}")
    return value


def _refuse_unknown(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in raw:
        if key not in known:
            raise InputError(f"{where + '.' if where else ''}{key} is not known (known: {', '.join(sorted(known))})")
