"""Rules of the house: sizes of files and functions, no suppressions, axis letters."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = "remote_code"
"""Files that are copied beside an exported model: torch's, no modules of the package."""
MOST_LINES, MOST_FUNCTION_LINES = 400, 60
SUPPRESSION = re.compile(r"#\s*(type:\s*ignore|pyright:\s*(ignore|basic)|noqa)")
SHAPED = re.compile(r"\b(?:Float|Int|UInt8|Bool|Num|Shaped|Array)\[[\w.\[\], ]*?,\s*\"([^\"]*)\"\]")
LEGEND_ROW = re.compile(r"^  ([A-Z])  \S", re.MULTILINE)


def sources(root: Path) -> list[Path]:
    """Python files of the project: package, tests, benchmarks, configs, documentation."""
    folders = ("sage_jax", "tests", "bench", "configs", "docs")
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def modules(root: Path) -> Iterator[Path]:
    """Files of the package."""
    for path in sorted((root / "sage_jax").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py") and SHIPPED not in path.parts:
            yield path


def long_files(root: Path) -> list[str]:
    """Files of more lines than a file may have."""
    counts = {path: path.read_text(encoding="utf-8").count("\n") for path in sources(root)}
    return [f"{path.relative_to(root)}: {lines} lines" for path, lines in counts.items() if lines > MOST_LINES]


def long_functions(root: Path) -> list[str]:
    """Functions of more lines than a function may have, docstring counted."""
    found = []
    for path in sources(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    found.append(f"{path.relative_to(root)}: {node.name}, {lines} lines")
    return found


def suppressions(root: Path) -> list[str]:
    """Comments that silence a checker."""
    found = []
    for path in sources(root):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if SUPPRESSION.search(line):
                found.append(f"{path.relative_to(root)}:{number}")
    return found


def letter_faults(root: Path) -> list[str]:
    """Axis letters that are used but not in the legend of axes.py, or in the legend but not used."""
    legend = set(LEGEND_ROW.findall((root / "sage_jax" / "axes.py").read_text(encoding="utf-8")))
    used: dict[str, str] = {}
    for path in modules(root):
        for shape in SHAPED.findall(path.read_text(encoding="utf-8")):
            for letter in re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", re.sub(r"(?<=[A-Z])\d", "", shape)):
                used.setdefault(letter, path.name)
    faults = [f"{letter}, used in {used[letter]}, is not in the legend" for letter in sorted(set(used) - legend)]
    return faults + [f"{letter} of the legend is used nowhere" for letter in sorted(legend - set(used))]


def untested_modules(root: Path) -> list[str]:
    """Modules without a test file of their own at the same place below tests/."""
    package = root / "sage_jax"
    return [
        str(path.relative_to(root))
        for path in modules(root)
        if not (root / "tests" / path.relative_to(package).with_name(f"test_{path.name}")).exists()
    ]


RULES: list[Callable[[Path], list[str]]] = [
    long_files,
    long_functions,
    suppressions,
    letter_faults,
    untested_modules,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_its_rules(rule: Callable[[Path], list[str]]) -> None:
    assert rule(ROOT) == []


@pytest.mark.parametrize(
    ("rule", "name", "text"),
    [
        (long_files, "sage_jax/__main__.py", "x = 1\n" * 401),
        (long_files, "tests/test_long.py", "x = 1\n" * 401),
        (long_functions, "bench/long.py", "def f():\n" + "    x = 1\n" * 60),
        (suppressions, "sage_jax/quiet.py", "x: int = ''  # type: " + "ignore\n"),
        (suppressions, "tests/test_quiet.py", "import os  # no" + "qa: F401\n"),
        (untested_modules, "sage_jax/models/alone.py", "x = 1\n"),
        (letter_faults, "sage_jax/shaped.py", 'def f(x: Float[Array, "B Y"]) -> None: ...\n'),
        (letter_faults, "sage_jax/axes.py", '"""Legend.\n\n  B  batch\n  T  tokens\n  W  nothing\n"""\n'),
    ],
)
def test_each_kind_of_fault_is_found(rule: Callable[[Path], list[str]], name: str, text: str, tmp_path: Path) -> None:
    good = {
        "sage_jax/axes.py": '"""Legend.\n\n  B  batch\n  T  tokens\n"""\n',
        "sage_jax/models/vit.py": 'def f(x: Float[Array, "B T"]) -> None: ...\n',
        "tests/test_axes.py": "",
        "tests/models/test_vit.py": "",
    }
    for path, content in good.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content, encoding="utf-8")
    assert rule(tmp_path) == []
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text, encoding="utf-8")
    (fault,) = rule(tmp_path)
    assert Path(name).name in fault or rule is letter_faults
