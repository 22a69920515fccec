"""What the project's own files promise: the commands, the pins, the fields of the config, the paths."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sage_jax.config import TRAINING_STAGES

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SETUP = "python3 -m venv .venv && .venv/bin/pip install -q -r "
MAIN_COMMAND = f"{SETUP}requirements.txt && .venv/bin/python -m sage_jax.main --config configs/quickstart.py"
TEST_COMMAND = f"{SETUP}requirements-test.txt && .ci/test"
# Folders of a machine, not of a project; what is mounted in a container or named by a variable is neither.
MACHINE_PATH = re.compile(r"(?<![\w.$}~/])/(home|root|Users|work|tmp|opt|mnt|media|srv|scratch)/\w")


def text_files() -> Iterator[Path]:
    """Every text file that belongs to the project."""
    written = {
        ".git",
        ".venv",
        "runs",
        "build",
        "dist",
        "site",
        "__pycache__",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
    }
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(set(folders) - written)
        for name in sorted(set(names) - written):  # .git is a file in a linked worktree
            path = Path(folder, name)
            if path.suffix in {".py", ".md", ".sh", ".toml", ".yaml", ".yml", ".txt", ".json", ""}:
                yield path


def requirements(name: str) -> dict[str, Requirement]:
    """Requirements of one file, not of the files that it names, by canonical name."""
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-r ")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pinned_version(requirement: Requirement) -> str | None:
    """The one version that a requirement allows, or None."""
    (specifier, *others) = requirement.specifier or [None]
    if specifier is None or others or specifier.operator != "==" or "*" in specifier.version:
        return None
    return specifier.version


def test_readme_gives_each_command_on_a_line_of_its_own() -> None:
    lines = [line.strip() for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    assert lines.count(MAIN_COMMAND) == 1
    assert lines.count(TEST_COMMAND) == 1


def test_documents_and_continuous_integration_use_the_readme_commands() -> None:
    assert TEST_COMMAND in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "-m pip install -q --no-compile -r requirements-test.txt" in run
    assert re.search(r'^PYTHON="\$python" \.ci/test$', run, re.MULTILINE)
    for step in ("ruff format --check", "ruff check", "pyright", "pytest -n 2"):
        assert f'"$python" -m {step}' in (ROOT / ".ci" / "test").read_text(encoding="utf-8")
    for name in ("run", "test"):
        assert os.access(ROOT / ".ci" / name, os.X_OK)


def test_every_documented_run_names_a_config_that_is_there() -> None:
    named = set()
    for path in text_files():
        if path.suffix in {".md", ".sh", ".yaml"}:
            named |= set(re.findall(r"\bconfigs/\w+\.py\b", path.read_text(encoding="utf-8")))
    assert "configs/quickstart.py" in named
    assert {name for name in named if not (ROOT / name).is_file()} == set()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt", "requirements-peer.txt"])
def test_every_requirement_is_pinned_to_one_version(name: str) -> None:
    assert {
        str(requirement) for requirement in requirements(name).values() if pinned_version(requirement) is None
    } == set()


def test_pins_lie_in_the_declared_ranges() -> None:
    runtime = requirements("requirements.txt")
    files = (
        ("requirements.txt", None),
        ("requirements-test.txt", "test"),
        ("requirements-test.txt", "docs"),
        ("requirements-test.txt", "serve"),
        ("requirements-peer.txt", "peer"),
    )
    for name, extra in files:
        pins = runtime | requirements(name)
        declared = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
        for requirement in map(Requirement, declared):
            pin = pins.get(canonicalize_name(requirement.name))
            assert pin is not None, f"{requirement} is not in {name}"
            assert requirement.specifier.contains(pinned_version(pin) or ""), (
                f"{name} has {pin}, declared {requirement}"
            )


def test_pins_are_complete() -> None:
    """Whatever an installed requirement needs in turn is pinned too, so that two installs are the same."""
    pins = requirements("requirements.txt") | requirements("requirements-test.txt")
    installed = {canonicalize_name(distribution.name) for distribution in importlib.metadata.distributions()}
    if not installed >= set(pins):
        pytest.skip(f"not installed from requirements-test.txt: {', '.join(sorted(set(pins) - installed))}")
    missing = set()
    for name, pin in pins.items():
        if (
            name == "torch"
        ):  # its CUDA build, which a Linux machine gets by default, brings packages that nothing here uses
            continue
        for text in importlib.metadata.requires(name) or ():
            needed = Requirement(text)
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in {"", *pin.extras})
            if wanted and canonicalize_name(needed.name) not in pins:
                missing.add(f"{name} needs {needed}")
    assert missing == set()


def test_the_package_declares_what_it_imports() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    served = {canonicalize_name(Requirement(text).name) for text in PROJECT["optional-dependencies"]["serve"]}
    undeclared = set()
    shipped = ROOT / "sage_jax" / "hf" / "remote_code"  # copied beside exported models, for torch
    for path in sorted((ROOT / "sage_jax").rglob("*.py")):
        if path.is_relative_to(shipped):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"sage_jax"}:
                allowed = declared | served if path.parent.name in ("serving", "review") else declared
                if not {canonicalize_name(d) for d in distributions.get(top, [])} & allowed:
                    undeclared.add(f"{path.name} imports {top}")
    assert undeclared == set()


def test_version_is_the_one_in_the_changelog() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == PROJECT["version"]


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = {}
    for path in text_files():
        for match in MACHINE_PATH.finditer(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = match.group()
    assert found == {}


def read_attributes(tree: ast.AST) -> set[str]:
    """Names that are read as attributes, `x.name`, anywhere under a node."""
    loads = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load))
    return {node.attr for node in loads}


def test_every_config_field_is_read() -> None:
    """A field that only the configs' own checks see changes nothing: no option is dead."""
    package = ROOT / "sage_jax"
    configs = sorted((package / "config").glob("*.py"))
    read = set(TRAINING_STAGES)  # sections that `Config.training` reads by name
    for path in package.rglob("*.py"):
        if path not in configs:
            read |= read_attributes(ast.parse(path.read_text(encoding="utf-8")))
    classes = [node for path in configs for node in ast.parse(path.read_text(encoding="utf-8")).body]
    fields = []
    for node in (node for node in classes if isinstance(node, ast.ClassDef) and node.name.endswith("Config")):
        # A field may be read by a property of its class, if that property is read.
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name in read:
                read |= read_attributes(item)
        fields += [
            (node.name, i.target.id)
            for i in node.body
            if isinstance(i, ast.AnnAssign) and isinstance(i.target, ast.Name)
        ]
    assert len(fields) > 50
    assert [f"{owner}.{field}" for owner, field in fields if field not in read] == []


DOCUMENTS = sorted((ROOT / "docs").rglob("*.md")) + [ROOT / name for name in ("README.md", "CONTRIBUTING.md")]


@pytest.mark.parametrize(
    "path", [*DOCUMENTS, ROOT / "launch" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_and_named_files_of_a_document_are_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    named = re.findall(r"`((?:sage_jax|configs|launch|tests|docs|bench)/[\w./-]+)`", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    assert missing + [name for name in named if not (ROOT / name).exists()] == []
