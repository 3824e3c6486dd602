"""From n back to a config, by asking the family's own reader: no family has an inverse of its own.

The reader is run on trial configs and notes which keys it asks for and what they may be. Starting from a config, one
key after the other takes the value that brings what is read nearer to n, until nothing is left to differ. What is found
is read back and compared, so a wrong config cannot come out; at worst none does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nexus_universal.architecture.errors import NexusError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import leaves
from nexus_universal.families.shared.reader import REQUIRED, ConfigReader

Values = dict[str, Any]
KeyPath = tuple[str, ...]
LARGEST_COUNT = 10_000


@dataclass(frozen=True)
class Question:
    """A key that a reader asked for: what it found, and what would have been allowed."""

    value: Any
    types: tuple[type, ...]
    known: tuple[Any, ...] = ()
    length: int | None = None
    """Set where the value may be a list of one name per layer, or of one number where no names are known."""


class RecordingReader(ConfigReader):
    """Notes every key that a family asks for, and stands in for a required one that is missing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.asked: dict[KeyPath, Question] = {}
        self.invented: dict[KeyPath, Any] = {}
        self.broken: set[KeyPath] = set()

    def require(self, holds: bool, key: str, value: Any, expected: str) -> None:
        """Note what does not hold (yet): several keys may have to change before it does."""
        if not holds:
            self.broken.add(self._path(key))

    def agree(self, key: str, value: Any, implied: Any) -> None:
        """Note what would agree."""
        super().agree(key, value, implied)
        if value != implied:
            self.invented[self._path(key)] = implied

    def take(self, key: str, default: Any = REQUIRED, *, known: Any = None, kinds: Any = None) -> Any:
        if default is REQUIRED and key not in self.values:
            stand_in: Any = 2 if kinds and kinds[0] in (int, float) else [1.0]
            self.values[key] = self.invented[self._path(key)] = stand_in
        types = kinds or (() if default is REQUIRED or default is None else (type(default),))
        self.asked[self._path(key)] = Question(self.values.get(key, default), types, tuple(known or ()))
        return super().take(key, default, known=known, kinds=kinds)

    def names(self, key: str, *, length: int, known: Any) -> tuple[str, ...] | None:
        found = super().names(key, length=length, known=known)
        self.asked[self._path(key)] = Question(found, (list, type(None)), tuple(known), length)
        return found

    def layer_numbers(self, key: str, *, length: int) -> tuple[float, ...] | None:
        found = super().layer_numbers(key, length=length)
        self.asked[self._path(key)] = Question(found, (list, type(None)), length=length)
        return found

    def layer_counts(self, key: str, default: int, *, length: int) -> tuple[int, ...]:
        found = super().layer_counts(key, default, length=length)
        self.asked[self._path(key)] = Question(self.values.get(key, default), (int, list), length=length)
        return found

    def section(self, key: str) -> ConfigReader:
        self.values.setdefault(key, {})
        inner = super().section(key)
        assert isinstance(inner, RecordingReader)
        inner.asked, inner.invented, inner.broken = self.asked, self.invented, self.broken
        return inner

    def _path(self, key: str) -> KeyPath:
        return (*self.path.split(".")[:-1], key)


Read = Callable[[Values], tuple[ArchitectureParameter, RecordingReader]]


def solve(n: ArchitectureParameter, values: Values, *, read: Read) -> Values:
    """The values nearest to n that a search from `values` (in one spelling, not changed) arrives at."""
    search = _Search(n, read)
    found = search.at_depth(values)
    distance = search.distance(found)
    search.start = found
    with contextlib.suppress(_Exhausted):
        while distance:
            before = distance
            for improve in (search.improved, search.counted, search.restarted, search.escaped, search.scaled):
                found, distance = improve(found, distance)
                if distance < before:
                    break
            if distance == before:
                break
    search.tries = 0
    return found if found is values else search.without_leftovers(found)


TRIES = 60_000
"""So many configs are read at most: where pairs of keys help only together, there are far more than are worth it."""


class _Exhausted(Exception):
    """A search that has read enough."""


class _Search:
    def __init__(self, n: ArchitectureParameter, read: Read) -> None:
        self.n = n
        self.read = read
        self.layers: dict[tuple[int, int], int] = {}
        self.kept: list[Any] = []
        self.tries = 0
        self.start: Values | None = None

    def at_depth(self, values: Values) -> Values:
        """The same with n's number of layers, which everything else depends on; lists of another depth are left out."""
        n, reader = self.read(values)
        depth, wanted = len(n.layers), len(self.n.layers)
        if depth == wanted:
            return values
        kept = {key: value for key, value in values.items() if not (isinstance(value, list) and len(value) == depth)}
        counts = [path for path, question in reader.asked.items() if question.value == depth]
        trials = [_with(kept, path, wanted) for path in counts]
        if wanted not in map(self._depth, trials):
            trials += self._looped(kept)
        return min([kept, *trials], key=self.distance)

    def _looped(self, values: Values) -> Iterator[Values]:
        """For a depth that no key says by itself, all ways to make it of counts, such as those of nested loops."""
        now, wanted = self._depth(values), len(self.n.layers)
        asked = {path: question.value for path, question in self.read(values)[1].asked.items()}
        counts = {path: value for path, value in asked.items() if type(value) is int and value > 0}
        loops = [path for path, value in counts.items() if self._depth(_with(values, path, value + 1)) not in (0, now)]
        for turns in _products(len(loops), wanted):
            trial = values
            for path, count in zip(loops, turns, strict=True):
                trial = _with(trial, path, count)
            if self._depth(trial) == wanted:
                yield trial

    def _depth(self, values: Values) -> int:
        """How many layers are read; 0 where the reader refuses."""
        try:
            return len(self.read(values)[0].layers)
        except (NexusError, ArithmeticError):
            return 0

    def distance(self, values: Values) -> float:
        """How many leaves of what is read differ from n's; infinite where the reader refuses.

        Raises:
            _Exhausted: enough was read.
        """
        self.tries += 1
        if self.tries > TRIES:
            raise _Exhausted
        try:
            found, reader = self.read(values)
            return self._distance(found) + 0.5 * len(reader.broken)
        except (NexusError, ArithmeticError):
            return math.inf

    def _distance(self, found: ArchitectureParameter) -> float:
        names = ("embedding", "final_norm", "head", "registers", "streams", "text")
        total = sum(_differing(getattr(found, name), getattr(self.n, name)) for name in names)
        for mine, wanted in zip(found.layers, self.n.layers, strict=False):
            pair = (id(mine), id(wanted))
            if pair not in self.layers:
                self.layers[pair] = _differing(mine, wanted)
                self.kept.append(mine)  # an id names an object only while it lives
            total += self.layers[pair]
        return total + 1000 * abs(len(found.layers) - len(self.n.layers))

    def improved(self, values: Values, distance: float) -> tuple[Values, float]:
        """Give every key once the values that n has and this config has not."""
        n, reader = self.read(values)
        wanted = _wanted(n, self.n)
        for path, question in sorted(reader.asked.items(), key=lambda item: item[1].length is None):
            layered = question.length is not None
            tried = self._layer_lists(values, path, question, wanted) if layered else _candidates(question, wanted)
            values, distance = self._best(values, distance, path, tried)
        return values, distance

    def counted(self, values: Values, distance: float) -> tuple[Values, float]:
        """Try small whole numbers: n shows some counts only by their effect."""
        for path, question in self.read(values)[1].asked.items():
            values, distance = self._best(values, distance, path, _small_numbers(question, len(self.n.layers)))
        return values, distance

    def restarted(self, values: Values, distance: float) -> tuple[Values, float]:
        """Once begin again with the flags: where one decides what layers are, numbers were found for the wrong ones."""
        if self.start is None:
            return values, distance
        trial, self.start = self.start, None
        away = before = self.distance(trial)
        for path, question in self.read(trial)[1].asked.items():
            if question.types[:1] == (bool,):
                trial, away = self._best(trial, away, path, _candidates(question, ()))
        found, reached = self.counted(*self.improved(trial, away)) if away < before else (trial, away)
        return (found, reached) if reached < distance else (values, distance)

    def escaped(self, values: Values, distance: float) -> tuple[Values, float]:
        """Several keys may only help together: change one that does little harm, or a choice, then try all others."""
        n, reader = self.read(values)
        wanted = _wanted(n, self.n)
        for path, question in reader.asked.items():
            for candidate in () if question.length is not None else _candidates(question, wanted):
                trial = _with(values, path, candidate)
                away = self.distance(trial)
                if away == math.inf or (away > distance + 1 and not _is_choice(question)):
                    continue
                found, reached = self.counted(*self.improved(self._completed(trial), away))
                if reached < distance:
                    return found, reached
        return values, distance

    def scaled(self, values: Values, distance: float) -> tuple[Values, float]:
        """Multiply and divide numbers as n's are multiplied: a key may say a multiple of what n shows, or a divisor."""
        n, reader = self.read(values)
        ratios = _ratios(n, self.n)
        for path, question in reader.asked.items():
            if _is_number(question.value) and not question.known:
                value = Fraction(question.value)
                numbers = [scaled for ratio in ratios for scaled in (value * ratio, value / ratio)]
                whole = [round(number) for number in numbers if math.isclose(number, round(number), rel_tol=1e-9)]
                tried = map(float, numbers) if float in question.types else whole
                values, distance = self._best(values, distance, path, tried)
        return values, distance

    def _best(self, values: Values, distance: float, path: KeyPath, tried: Iterable[Any]) -> tuple[Values, float]:
        for candidate in tried:
            trial = _with(values, path, candidate)
            reached = self.distance(trial)
            if reached < distance:
                values, distance = self._completed(trial), reached
        return values, distance

    def without_leftovers(self, values: Values) -> Values:
        """Without keys of sections that nobody asks for any more, such as the factor of a scaling that is gone."""
        asked = self.read(values)[1].asked
        for key, section in values.items():
            if any(path[0] == key and len(path) > 1 for path in asked):
                values = {**values, key: _only(asked, section, (key,))}
        return values

    def _completed(self, values: Values) -> Values:
        """With the stand-ins for required keys that the reader had to invent."""
        for path, value in self.read(values)[1].invented.items():
            values = _with(values, path, value)
        return values

    def _layer_lists(self, values: Values, path: KeyPath, question: Question, wanted: list[Any]) -> Iterator[Any]:
        """For each layer the name (or number) that brings it nearest, found by giving every layer the same."""
        length = len(self.n.layers)
        scores: dict[Any, list[float]] = {}
        listed = question.value if isinstance(question.value, list | tuple) else [question.value]
        for name in question.known or dict.fromkeys(filter(_is_number, [0.0, *listed, *wanted])):
            try:
                layers = self.read(_with(values, path, [name] * length))[0].layers
            except NexusError:
                continue
            scores[name] = [_differing(mine, wanted) for mine, wanted in zip(layers, self.n.layers, strict=False)]
        yield from [None] if question.known else _candidates(question, wanted)
        if scores and all(len(score) == length for score in scores.values()):
            yield [min(scores, key=lambda name: scores[name][index]) for index in range(length)]


def _differing(left: Part | tuple[Any, ...] | None, right: Part | tuple[Any, ...] | None) -> int:
    """Leaves that differ; one that is None on a single side counts double, so that a wrong number beats none."""
    if left == right:
        return 0
    a, b = dict(leaves(left, "_")), dict(leaves(right, "_"))
    missing = object()
    pairs = [(a.get(path, missing), b.get(path, missing)) for path in a.keys() | b.keys()]
    return sum(1 + (None in pair or missing in pair) for pair in pairs if pair[0] != pair[1])


def _wanted(found: ArchitectureParameter, n: ArchitectureParameter) -> list[Any]:
    """Values of n that what was found lacks, each once, and the depth."""
    values: list[Any] = [len(n.layers)]
    for mine, theirs in _unlike(found, n):
        values += [value for path, value in theirs.items() if path not in mine or mine[path] != value]
    return list({repr(value): value for value in values}.values())


def _ratios(found: ArchitectureParameter, n: ArchitectureParameter) -> set[Fraction]:
    """How many times larger numbers of n are."""
    pairs = [(mine.get(path), value) for mine, theirs in _unlike(found, n) for path, value in theirs.items()]
    return {Fraction(y) / Fraction(x) for x, y in pairs if _is_number(x) and _is_number(y) and x != y and x and y}


def _unlike(found: ArchitectureParameter, n: ArchitectureParameter) -> list[tuple[Values, Values]]:
    """The leaves of ends and layers that differ, each pair once."""
    ends = [(getattr(found, name), getattr(n, name)) for name in ("embedding", "final_norm", "head", "text")]
    pairs = dict.fromkeys([*ends, *zip(found.layers, n.layers, strict=False)])
    return [(dict(leaves(mine, "_")), dict(leaves(theirs, "_"))) for mine, theirs in pairs if mine != theirs]


def _products(count: int, largest: int) -> Iterator[tuple[int, ...]]:
    """All tuples of so many whole numbers, from 1 on, whose product is at most `largest`."""
    if not count:
        yield ()
        return
    for first in range(1, largest + 1):
        yield from ((first, *others) for others in _products(count - 1, largest // first))


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_choice(question: Question) -> bool:
    """A flag or one of a few words: worth following even where it looks worse at first."""
    return bool(question.known) or question.types[:1] == (bool,)


def _candidates(question: Question, wanted: Iterable[Any]) -> Iterator[Any]:
    """What a key might be, given the values that n has and the trial has not."""
    if isinstance(question.value, bool) or question.types == (bool,):
        yield not question.value
        return
    yield from (name for name in question.known if name != question.value)
    if question.known:
        return
    if type(None) in question.types or not question.types:
        yield None
    takes = {kind: kind in question.types or not question.types for kind in (int, float, list)}
    for value in wanted:
        if isinstance(value, bool):
            continue
        if takes[float] and isinstance(value, int | float):
            yield from (float(value), *((1.0 / value,) if value else ()))
        if takes[int] and isinstance(value, int):
            yield value
        if takes[int] and isinstance(value, float) and 1e-2 < value < LARGEST_COUNT:
            yield from (round(value), round(value**-2))
        if takes[int] and isinstance(value, tuple) and len(value) == 1:
            yield value[0]
        if takes[list] and isinstance(value, tuple):
            yield list(value)
        if isinstance(question.value, list) and isinstance(value, float):
            yield from ([*question.value[:i], value, *question.value[i + 1 :]] for i in range(len(question.value)))


def _small_numbers(question: Question, depth: int) -> Iterator[Any]:
    """Counts that n shows only by their effect: how many layers are dense, how many experts are shared."""
    if int in question.types and not question.known:
        yield from range(max(depth, 8) + 1)
    if list in question.types:
        yield from ([index] for index in range(depth))
        yield []
        if isinstance(question.value, list | tuple) and all(
            type(item) is int for item in question.value
        ):  # one more, or one less
            yield from (sorted({*question.value} ^ {index}) for index in range(depth + 1))


def _only(asked: Iterable[KeyPath], section: Values, path: KeyPath) -> Values:
    """The keys of a section that were asked for, its own sections likewise; all of those beside sections."""
    holds_sections = any(found[: len(path)] == path and len(found) > len(path) + 1 for found in asked)
    kept = {key: value for key, value in section.items() if holds_sections or (*path, key) in asked}
    return {key: _only(asked, v, (*path, key)) if isinstance(v, dict) else v for key, v in kept.items()}


def _with(values: Values, path: KeyPath, value: Any) -> Values:
    key, *rest = path
    inner = values.get(key)
    return {**values, key: _with(dict(inner or {}), tuple(rest), value) if rest else value}
