"""The mutation score: what reflection makes of n, what becomes of each mutant, and what is published of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import nexus_universal
from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.part import PARTS, Part, part
from nexus_universal.architecture.paths import replaced
from nexus_universal.parity import equivalents, mutants
from nexus_universal.parity.bench import Bench, FalseProof, Outcome, Unproven
from nexus_universal.parity.draws import draw_configs
from nexus_universal.parity.equivalents import EQUIVALENTS, Equivalent
from nexus_universal.parity.mutants import ENOUGH, LESS, Score, mutation_score
from nexus_universal.parity.mutations import KINDS, Mutant, Place, changes
from nexus_universal.parity.mutations import mutants as mutants_of
from nexus_universal.parity.prove import Pair
from tests.cli.support import Result
from tests.helpers import raw

TYPES = families.model_types()
PUBLISHED = Path(nexus_universal.__file__).parent / "parity" / "mutants.json"


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def n_of(model_type: str, **changed: Any) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw(model_type, **changed))


def mutant(n: ArchitectureParameter, name: str) -> Mutant:
    return next(found for found in mutants_of(n) if found.name == name)


@pytest.fixture
def Several(monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: N802
    """A part with a field of every type that n's parts have."""

    class Several(Part):
        number: float
        whole: int
        flag: bool
        kind: Literal["a", "b", "c"]
        named: str
        optional: float | None = None
        optional_whole: int | None = None
        optional_kind: Literal["p", "q"] | None = None
        inner: Part | None = None
        roles: tuple[Literal["l", "r"], ...] = ()
        numbers: tuple[float, ...] = ()
        parts: tuple[Part, ...] = ()
        beside: int = dataclasses.field(default=3, compare=False)

    Several.__annotations__ = {
        "number": float,
        "whole": int,
        "flag": bool,
        "kind": Literal["a", "b", "c"],
        "named": str,
        "optional": float | None,
        "optional_whole": int | None,
        "optional_kind": Literal["p", "q"] | None,
        "inner": Part | None,
        "roles": tuple[Literal["l", "r"], ...],
        "numbers": tuple[float, ...],
        "parts": tuple[Part, ...],
        "beside": int,
    }
    made = part(Several)
    yield made
    del PARTS["Several"]


def changed(value: Any, field: str, elsewhere: Any = None) -> dict[str, Any]:
    place = Place(field, value, field, lambda new: new)
    return {change: new for _, change, new in changes(place, names={"x", "y"}, elsewhere=elsewhere)}


def test_every_type_of_field_is_changed(Several: Any) -> None:  # noqa: N803
    inner = Several(number=0.0, whole=1, flag=False, kind="a", named="x")
    value = Several(
        number=2.0, whole=4, flag=True, kind="b", named="x", optional=3.0, inner=inner, roles=("l",),
        numbers=(1.0, float("inf")), parts=(inner, dataclasses.replace(inner, whole=2)),
    )  # fmt: skip
    assert changed(value, "number") == {"× 1.1": 2.2}
    assert changed(inner, "number") == {"= 1.1": 1.1}
    assert changed(value, "whole") == {"+ 1": 5}
    assert changed(value, "flag") == {"flipped": False}
    assert changed(value, "kind") == {"= 'a'": "a", "= 'c'": "c"}
    assert changed(value, "named") == {"= 'y'": "y"}
    assert changed(value, "optional") == {"= None": None, "× 1.1": 3.0 * 1.1}
    assert changed(inner, "optional") == {"= 1.1": 1.1}
    assert changed(inner, "optional", elsewhere=5.0) == {"as elsewhere in n": 5.0}
    assert changed(inner, "optional_whole") == {"= 7": 7}
    assert changed(inner, "optional_kind") == {"= 'p'": "p", "= 'q'": "q"}
    assert changed(value, "inner") == {"= None": None}
    assert changed(value, "roles") == {"without 'l'": (), "with 'r'": ("l", "r")}
    assert changed(value, "numbers") == {"[0] × 1.1": (1.1, float("inf")), "[1] = 1.1": (1.0, 1.1)}
    first, second = value.parts
    assert changed(value, "parts") == {
        "without [0]": (second,),
        "without [1]": (first,),
        "[0] and [1] swapped": (second, first),
    }


def fields_held(value: Part) -> set[str]:
    """`Part.field` of everything in a part that equality looks at."""
    found: set[str] = set()
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        if field.compare:
            found.add(f"{type(value).__name__}.{field.name}")
            item = getattr(value, field.name)
            for inner in item if isinstance(item, tuple) else (item,):
                found |= fields_held(inner) if isinstance(inner, Part) else set()
    return found


UNCHANGED = {
    "Branch.part",
    "ArchitectureParameter.embedding",
    "ArchitectureParameter.head",
    "Step.read",
    "Register.name",
    "Beside.name",
}
"""Parts that must be there, whose own fields are changed; a register's name is, where steps read and write it.

A table's name beside another is that of its tensor.
"""


@pytest.mark.parametrize("model_type", TYPES)
def test_every_field_of_n_is_changed(model_type: str) -> None:
    n = n_of(model_type)
    found = list(mutants_of(n))
    assert len({each.name for each in found}) == len(found)
    assert {each.kind for each in found} <= set(KINDS)
    left = fields_held(n) - {each.field for each in found} - UNCHANGED
    for label in left:
        holder, _, field = label.partition(".")
        values = {getattr(value, field) for value in parts_of(n) if type(value).__name__ == holder}
        single = {type(value) for value in values if isinstance(value, Part)}
        assert values <= {None, ()} or single, f"{label} holds {values} and is never changed"
    for each in found:
        assert each.n != n, each.name
        assert not each.path.startswith(("text", "origin"))


def parts_of(value: Part) -> list[Part]:
    inner = [getattr(value, field.name) for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    flat = [part for item in inner for part in (item if isinstance(item, tuple) else (item,)) if isinstance(part, Part)]
    return [value, *(found for part in flat for found in parts_of(part))]


@pytest.mark.parametrize("model_type", TYPES)
def test_paths_are_the_architectures_own(model_type: str) -> None:
    """`replace` takes the path of a mutant and makes that mutant, and it alone."""
    n = n_of(model_type)
    for each in mutants_of(n):
        value = each.n
        holder = replaced(n, each.path, each.place.value)
        assert holder == n, each.path
        if each.kind in ("number", "whole number", "flag", "choice") and "[" not in each.change:
            new = {change: new for _, change, new in changes(each.place, names=set())}[each.change]
            assert replaced(n, each.path, new) == value, each.name


def test_a_part_of_several_layers_is_changed_in_the_first_and_the_last() -> None:
    n = n_of("gemma3_text")
    names = [each.name for each in mutants_of(n)]
    assert "layers.0.attention.window + 1" in names and "layers.5.attention.rope.theta × 1.1" in names
    assert not any(name.startswith(("layers.1.", "layers.4.")) for name in names)
    found = mutant(n, "layers.0.attention.window + 1")
    windows = [[p.steps[0].branches[0].part.window for p in each.layers] for each in (found.n, found.later)]
    assert windows == [[17, 16, 16, 16, 16, None], [16, 16, 16, 16, 17, None]]
    assert mutant(n, "layers.5.attention.rope.theta × 1.1").later is None


BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}
OUTCOMES: list[tuple[str, dict[str, Any], str, str, str, bool]] = [
    # family, config, mutant, what becomes of it, where or why, whether it lies beyond the floor
    ("llama", {}, "layers.0.attention.rope.theta × 1.1", "killed", "prefill in float32", True),
    ("llama", {}, "layers.0.attention_step.norm.rounding = 'after_scale'", "killed", "prefill in bfloat16", False),
    ("llama", {"rms_norm_eps": 1e-3}, "final_norm.eps × 1.1", "killed", "prefill in float32", True),
    ("llama", {"tie_word_embeddings": True}, "head.tied flipped", "killed", "gradients in float32", True),
    ("llama", {"pad_token_id": 0}, "embedding.padding_row + 1", "killed", "gradients in float32", True),
    ("llama", {}, "embedding.padding_row = 7", "killed", "gradients in float32", True),
    ("llama", {}, "layers.0.feed_forward.width + 1", "refused", "has shape", False),
    ("llama", {}, "layers.0.attention.kv_heads + 1", "refused", "must divide heads = 4", False),
    ("llama", {}, "layers.0.attention_step.norm = None", "refused", "unexpected tensors", False),
    ("llama", {}, "layers.0.attention_step.writes.0.terms [0] and [1] swapped", "equivalent", "a + b = b + a", False),
    ("gpt2", {}, "layers.0.attention.packing without [0]", "refused", "of which the family knows no tensor", False),
    (
        "gpt2",
        {"scale_attn_by_inverse_layer_idx": True},
        "layers.0.attention.scale.rule = 'multiply'",
        "killed",
        "",
        True,
    ),
    ("gemma3_text", {}, "embedding.scale_inputs flipped", "killed", "given embeddings in float32", True),
]


@pytest.mark.parametrize(("model_type", "config", "name", "state", "told", "beyond"), OUTCOMES)
def test_outcomes(model_type: str, config: dict[str, Any], name: str, state: str, told: str, beyond: bool) -> None:
    family = families.find(model_type)
    place = Bench(family, {**family.tiny, **config}, seed=1)
    found = place.tried(mutant(place.n, name))
    assert found.state == state, found
    assert told in found.where + found.why, found
    assert found.beyond_floor == beyond, found


def test_one_path_to_several_parts_is_tried_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rope.scaling.factor` is another number in each scaling."""
    monkeypatch.setattr(Bench, "tried", lambda self, found: Outcome(found.name, found.kind, found.field, "killed"))
    fields = mutation_score("llama").table("field")
    assert {"LinearScaling.factor", "YarnScaling.factor", "LongRopeScaling.factor", "Llama3Scaling.factor"} <= set(
        fields
    )


def test_short_factors_are_seen_below_the_switch() -> None:
    family = families.find("llama")
    scalings = [config for config in draw_configs(family, 24, seed=0) if "long_factor" in str(config)]
    place = Bench(family, scalings[0], seed=0)
    found = place.tried(mutant(place.n, "layers.0.attention.rope.scaling.short_factors [0] × 1.1"))
    assert (found.state, found.where) == ("killed", "short prefill in float32")


def test_a_crash_is_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    family = families.find("llama")
    place = Bench(family, dict(family.tiny), seed=1)
    sides = place.sides("float32")

    def broken(n: ArchitectureParameter) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(sides, "model", broken)
    found = place.tried(mutant(place.n, "layers.0.attention.rope.theta × 1.1"))
    assert (found.state, found.why) == ("crashed", "RuntimeError: shapes do not fit")


def test_a_wrong_n_has_no_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the right n differs already, nothing that a mutant does says anything."""
    family = families.find("llama")
    place = Bench(family, dict(family.tiny), seed=1)
    place.n = place.n.replace("layers.*.attention.rope.theta", 11000.0)
    with pytest.raises(Unproven, match="prefill in float32: the right n differs by"):
        place.tried(mutant(place.n, "layers.0.attention.rope.theta × 1.1"))


def test_a_right_n_that_does_not_run_is_no_crash_of_a_mutant(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    family = families.find("llama")
    place = Bench(family, dict(family.tiny), seed=1)
    monkeypatch.setattr(Pair, "built", broken)
    with pytest.raises(Unproven, match=r"llama: the right n is not built in float32 \(ZeroDivisionError: division"):
        place.tried(mutant(place.n, "layers.0.attention.rope.theta × 1.1"))


def test_a_false_proof_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    family = families.find("llama")
    place = Bench(family, dict(family.tiny), seed=1)
    wrong = Equivalent("Rope.theta", "all rotations are alike", lambda mutant, n: True)
    monkeypatch.setattr(equivalents, "EQUIVALENTS", (wrong,))
    with pytest.raises(FalseProof, match=r"rope.theta × 1.1 was noticed in prefill in float32, but: all rotations"):
        place.tried(mutant(place.n, "layers.0.attention.rope.theta × 1.1"))


def test_declared_equivalents_name_fields() -> None:
    known = {f"{name}.{field.name}" for name, cls in PARTS.items() for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for declared in EQUIVALENTS:
        assert declared.proof
        assert any(equivalents.fnmatch.fnmatch(label, declared.field) for label in known), declared.field


def test_a_family_is_scored_anew(published: dict[str, Any]) -> None:
    """A part of what is published, run again: two configs notice what they are said to notice."""
    score = mutation_score("llama", draws=2)
    assert score.noticed >= ENOUGH and not score.of("crashed")
    assert len(score.of("killed")) > 60
    was = published["families"]["llama"]
    assert {outcome.name for outcome in score.of("survived")} <= {"final_norm.eps × 1.1"}
    assert set(score.table("field")) <= set(was["fields"])


@pytest.mark.parametrize("model_type", json.loads(PUBLISHED.read_text(encoding="utf-8"))["families"])
def test_an_entry_of_the_published_table_adds_up(model_type: str, published: dict[str, Any]) -> None:
    entry = published["families"][model_type]
    family = families.find(model_type)
    counted = {state: sum(row.get(state, 0) for row in entry["fields"].values()) for state in mutants.STATES}
    assert counted == {state: entry[state] for state in mutants.STATES}
    alive, least = entry["killed"] + entry["survived"], LESS.get(model_type, ENOUGH)
    assert entry["borrowed"] or entry["killed"] >= least * alive
    assert model_type not in LESS or entry["killed"] < ENOUGH * alive, "no exception is needed any more"
    assert bool(entry["borrowed"]) == bool(family.reference and not family.reference.rounds_alike)
    assert entry["crashed"] == 0
    assert len(entry["survivors"]) == entry["survived"] and len(entry["equivalents"]) == entry["equivalent"]


def test_the_published_score(published: dict[str, Any]) -> None:
    entries = published["families"].values()
    killed, survived, equivalent = (sum(e[key] for e in entries) for key in ("killed", "survived", "equivalent"))
    assert killed >= 0.99 * (killed + survived)
    assert equivalent <= 0.05 * (killed + survived + equivalent)
    assert set(published["families"]) <= set(TYPES)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Stand in for the score: so many outcomes of each state, and what was asked for."""

    def stand_in(**counts: int) -> list[Any]:
        calls: list[Any] = []

        def tried(named: str, **settings: Any) -> Score:
            settings.pop("progress")("one step")
            calls.append((named, settings))
            score = Score(named)
            for state, count in counts.items():
                for index in range(count):
                    name, seen = f"{state}.{index} [0] × 1.1", state == "killed"
                    found = Outcome(name, "number", "Rope.theta", state, beyond_floor=seen)
                    score.outcomes[found.field, name] = found
            return score

        monkeypatch.setattr(mutants, "mutation_score", tried)
        return calls

    return stand_in


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    from nexus_universal.cli import run

    def ran(*args: object) -> Result:
        capsys.readouterr()
        status = run([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return ran


def test_the_command_prints_the_table_and_the_survivors(scored: Any, nexus: Any) -> None:
    calls = scored(killed=99, survived=1, refused=5, equivalent=2)
    shown = nexus("verify", "--mutants", "llama")
    assert (shown.status, shown.err) == (0, "")
    assert "survived survived.0 [0] × 1.1 (Rope)" in shown.out
    assert "llama: 99.0% of 100 mutants noticed (at least 97%), 99.0% beyond the floor" in shown.out
    row = next(line for line in shown.out.splitlines() if line.startswith("a number × 1.1"))
    assert row.split()[-5:] == ["99", "1", "2", "5", "0"]
    assert (
        json.loads(nexus("verify", "--mutants", "llama", "--json", "-", "--draws", 3, "--seed", 2).out)["killed"] == 99
    )
    assert calls == [("llama", {"draws": None, "seed": 0}), ("llama", {"draws": 3, "seed": 2})]


@pytest.mark.parametrize(("counts", "status"), [({"killed": 97, "survived": 3}, 0), ({"killed": 96, "survived": 4}, 1),
                                                ({"killed": 99, "crashed": 1}, 1)])  # fmt: skip
def test_the_status_is_the_score(counts: dict[str, int], status: int, scored: Any, nexus: Any) -> None:
    scored(**counts)
    assert nexus("verify", "--mutants", "llama").status == status


@pytest.mark.parametrize("more", [["--family", "llama"], ["somewhere"], ["--dtype", "bfloat16"], ["--markdown", "-"]])
def test_the_command_refuses_what_it_does_not_take(more: list[str], nexus: Any) -> None:
    shown = nexus("verify", "--mutants", "llama", *more)
    assert shown.status == 2 and "--mutants TYPE goes with --draws, --seed and --json only" in shown.err
    assert nexus("verify", "--mutants", "lama").status == 2
