"""The rules of the house: who may import whom, how long a file may be, and where a family's name may stand."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import nexus_universal
from nexus_universal import families

PACKAGE = Path(nexus_universal.__file__).resolve().parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS: tuple[tuple[str, ...], ...] = (
    ("architecture",),
    ("cache", "layers"),
    ("checkpoint", "families", "generation"),
    ("transformer",),
    ("parity",),
    ("fusion", "integrations"),
    ("cli",),
)
"""From the ground up. A file imports from its own floor and from those below it."""

MATHEMATICS = ("layers", "cache", "generation", "transformer")
ALLOWED_WORDS = {"beam", "phi", "git", "opt"}
"""Model types that are words of their own."""

KNOWS_TRANSFORMERS = {"generation/text.py": "tokenizers and chat templates are transformers' own"}
"""Files that import it when a function needs it."""

LONGEST, LONGEST_FAMILY = 400, 120


def place(path: Path) -> str:
    """Which part of the house a file belongs to: its folder, or its own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def floor(name: str) -> int | None:
    return next((level for level, names in enumerate(FLOORS) if name in names), None)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, and the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            assert node.module is not None
            yield node.module, node.lineno
            if node.module == "nexus_universal":
                yield from ((f"nexus_universal.{alias.name}", node.lineno) for alias in node.names)


def spoken(path: Path) -> Iterator[tuple[str, int]]:
    """Names and strings of a file, docstrings and comments left out."""
    text = path.read_text(encoding="utf-8")
    documentation = {
        (node.body[0].lineno, node.body[0].end_lineno)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
        and isinstance(node.body[0].value, ast.Constant)
        and isinstance(node.body[0].value.value, str)
    }
    standing_alone = {
        (node.lineno, node.end_lineno)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if (
            token.type == tokenize.NAME
            or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
            or (token.type == tokenize.STRING and (token.start[0], token.end[0]) not in documentation | standing_alone)
        ):
            yield token.string, token.start[0]


def family_names() -> set[str]:
    """All model types of transformers' causal language models, ours, and their bare first words."""
    names = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *families.model_types()}
    return {name.lower().replace("-", "_") for name in names} - ALLOWED_WORDS


def family_words(text: str, names: set[str]) -> set[str]:
    """Family names that stand in a text as whole words, also inside `snake_case` and `CamelCase`."""
    words = set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", text.lower()))
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text).lower()
    words |= set(re.findall(r"[a-z0-9]+(?:_[a-z0-9]+)*", split))
    parts = {part for word in words for part in word.split("_")}
    return (words | parts) & names


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", [p for p in FILES if place(p) in MATHEMATICS], ids=relative)
def test_the_mathematics_knows_no_family(path: Path) -> None:
    names = family_names()
    found = [f"{path.name}:{line}: {text}" for text, line in spoken(path) if family_words(text, names)]
    assert not found


def test_the_whole_word_test_would_find_a_name(tmp_path: Path) -> None:
    names = family_names()
    assert len(names) > 150
    for text in (
        "x = kind == 'llama'",
        "qwen3_norm = 1",
        "class Gemma3Attention: ...",
        'x = f"{a} mixtral"',
        "gpt2 = 0",
    ):
        path = tmp_path / "sample.py"
        path.write_text(f'"""Llama in a docstring."""\n# qwen3 in a comment\n{text}\n')
        assert any(family_words(word, names) for word, _ in spoken(path)), text
    for text in ("beams = 3", "optimize()", "phi = 1.6", "'a lamp'", "digit = 'git'", "glmx = 0"):
        path.write_text(f'"""Llama in a docstring."""\n# qwen3 in a comment\n{text}\n')
        assert not any(family_words(word, names) for word, _ in spoken(path)), text


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    here = floor(place(path))
    wrong = []
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] != "nexus_universal" or len(parts) == 1:
            continue
        there = floor(parts[1])
        if there is not None and here is not None and there > here:
            wrong.append(f"{path.name}:{line}: {module}")
    assert not wrong
    assert here is not None or path.parent == PACKAGE, f"{relative(path)} lies on no floor: add its folder to FLOORS"


@pytest.mark.parametrize("path", [p for p in FILES if place(p) == "architecture"], ids=relative)
def test_the_architecture_is_data(path: Path) -> None:
    """No torch, no transformers, nothing of ours above it."""
    for module, line in imports(path):
        head, *rest = module.split(".")
        assert head not in ("torch", "transformers", "safetensors", "numpy"), f"line {line}"
        assert head != "nexus_universal" or rest[:1] in ([], ["architecture"]), f"line {line}: {module}"


@pytest.mark.parametrize("path", [p for p in FILES if place(p) == "families"], ids=relative)
def test_families_are_data(path: Path) -> None:
    """No torch and no transformers in a family or its helpers, and at most 120 lines of 120 columns in a family."""
    for module, line in imports(path):
        assert module.split(".")[0] not in ("torch", "transformers", "numpy"), f"line {line}"
    if path.parent.name == "families" and path.stem in families.model_types():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= LONGEST_FAMILY
        assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("path", [p for p in FILES if place(p) not in ("parity", "cli", "integrations")], ids=relative)
def test_only_proofs_and_integrations_know_transformers(path: Path) -> None:
    """Load, forward, cache and generation must run without it; a lazy import inside a function counts as one."""
    found = [line for module, line in imports(path) if module.split(".")[0] == "transformers"]
    assert not found or relative(path) in KNOWS_TRANSFORMERS


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST
    documentation = ast.get_docstring(ast.parse(text))
    assert documentation, "a file without a docstring"
    assert not re.search(r"^#\s*[-=#*]{5,}", text, re.MULTILINE), "a banner"


def test_every_test_that_may_wait_is_in_the_ledger() -> None:
    ledger = (PACKAGE.parent / "docs" / "REFERENCE_FAULTS.md").read_text(encoding="utf-8")
    waiting = re.compile(r"mark\.(?:skip|xfail)|pytest\.(?:skip|xfail|importorskip)\(")
    tests = PACKAGE.parent / "tests"
    found = {str(path.relative_to(tests)) for path in tests.rglob("*.py") if waiting.search(path.read_text())}
    found.discard("test_house.py")
    assert found and found == set(re.findall(r"^\| `tests/(\S+?)(?:::\S+)?` \| waits", ledger, re.MULTILINE))


def test_every_family_has_its_file_and_says_its_name() -> None:
    for model_type in families.model_types():
        assert families.find(model_type).model_type == model_type
        assert (PACKAGE / "families" / f"{model_type}.py").is_file()
        borrowed = families.find(model_type).reference
        assert (borrowed.model_type if borrowed else model_type) in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def test_no_family_imports_another() -> None:
    known = families.model_types()
    for model_type in known:
        for module, line in imports(PACKAGE / "families" / f"{model_type}.py"):
            assert module.split(".")[-1] not in known, f"{model_type}.py:{line}: {module}"
