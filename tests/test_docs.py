"""The documents and their site: complete, true to the config, and readable without a network."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sage_jax
from sage_jax.config import TRAINING_STAGES, Config, ConfigError, FusionConfig, PreferenceConfig, field_paths
from sage_jax.config.command_line import read_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
RUN_OUTPUTS = {"ablation.md", "sweep.md"}
"""Markdown that a run writes; docstrings name it, and no document has that name."""


def load_extension(name: str) -> ModuleType:
    """An extension of the site, which lies outside every package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "extensions" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", DOCS, folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def config_classes(cls: Any = Config) -> Iterator[Any]:
    """The dataclasses of the config, each once or more."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            yield from config_classes(hint)


def docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a file: of module, classes and functions, and the strings below constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_every_page_is_in_the_navigation() -> None:
    toctrees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL)
    entries = [
        line for toctree in toctrees for line in toctree.split() if "/" in line or (DOCS / f"{line}.md").exists()
    ]
    assert sorted(entries) == sorted(set(entries))
    assert set(entries) == {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} - {"index"}


def test_every_config_field_is_in_the_built_reference(site: Path) -> None:
    text = (site / "reference" / "config.html").read_text(encoding="utf-8")
    listed = {re.sub(r"<[^>]+>", "", term) for term in re.findall(r"<dt>(.*?)</dt>", text, re.DOTALL)}
    sections = {path.rpartition(".")[0] for path in field_paths()}
    fields = {path for path in field_paths() if path not in sections}
    shared = {path.removeprefix("sfe.") for path in fields if path.startswith("sfe.")}
    stage = re.compile(rf"^({'|'.join(TRAINING_STAGES)})\.")
    own = {path for path in fields if stage.match(path) and stage.sub("", path) not in shared}
    assert len(fields) > 200 and {path.split(".")[0] for path in own} == {"learn"}
    assert {path if path in own else stage.sub("&lt;stage&gt;.", path) for path in fields} == listed


def test_every_public_name_is_in_the_built_reference(site: Path) -> None:
    text = (site / "reference" / "api.html").read_text(encoding="utf-8")
    documented = set(re.findall(r'<span class="sig-name descname"><span class="pre">(\w+)</span>', text))
    assert {"answer_surprisal", "compare", "read_records"} <= documented
    assert set(getattr(sage_jax, "__all__", ())) - {"__version__"} - documented == set()


CONFIG_CLASSES = sorted(set(config_classes()), key=lambda config_class: config_class.__name__)


@pytest.mark.parametrize("config_class", CONFIG_CLASSES, ids=lambda config_class: config_class.__name__)
def test_every_config_field_has_a_meaning(config_class: Any) -> None:
    meanings = load_extension("config_fields").field_meanings(config_class)
    assert set(meanings) == {field.name for field in dataclasses.fields(config_class)}
    assert all(meanings.values())


def documented_commands() -> Iterator[tuple[Path, list[str]]]:
    """Each run that a document spells out, as the arguments from `--config` on; those with placeholders left out."""
    for path in [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "launch" / "README.md"]:
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(
            r"^    (.*(?:-m sage_jax\.main --config |launch/\w+\.sh configs/).*)$", text, re.MULTILINE
        ):
            words = shlex.split(re.split(r"-m sage_jax\.main --config |launch/\w+\.sh ", line)[-1], comments=True)
            if words[0] != "FILE" and "--config.data.source=NAME" not in words:
                yield path, words


def test_every_documented_run_is_a_valid_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    commands = list(documented_commands())
    assert len(commands) > 15
    faults = []
    for path, words in commands:
        try:
            read_config(["--config", *words])
        except ConfigError as error:
            faults.append(f"{path.relative_to(ROOT)}: {error}")
    assert faults == []


def test_the_method_names_every_reading_of_the_paper() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    readings = {
        value
        for config_class in (FusionConfig, PreferenceConfig)
        for hint in typing.get_type_hints(config_class).values()
        if typing.get_origin(hint) is typing.Literal
        for value in typing.get_args(hint)
    }
    assert len(readings) > 12
    assert {value for value in readings if not re.search(rf"[`=]{value}`", text)} == set()


def test_the_method_names_every_file_of_models_and_losses() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    support = {"__init__", "layers", "blocks", "masked", "select"}
    files = [path for folder in ("models", "losses") for path in (ROOT / "sage_jax" / folder).rglob("*.py")]
    named = [path for path in files if path.stem not in support]
    assert len(named) > 8
    assert [str(path) for path in named if f"`{path.relative_to(ROOT).as_posix()}`" not in text] == []


class Loaded(HTMLParser):
    """Collects addresses of what a page loads by itself: scripts, styles, fonts, pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.found.append(given.get("src") or "")
        elif tag == "link" and given.get("rel") in ("stylesheet", "preload", "icon", "preconnect"):
            self.found.append(given.get("href") or "")


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    parser = Loaded()
    for page in pages:
        parser.feed(page.read_text(encoding="utf-8"))
    for sheet in sorted((site / "_static").rglob("*.css")):
        parser.found += re.findall(r"(?:url\(|@import )['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
    assert len(parser.found) > 100
    assert [address for address in parser.found if re.match(r"(https?:)?//", address)] == []


def test_equations_are_built_into_the_page(site: Path) -> None:
    page = (site / "method.html").read_text(encoding="utf-8")
    assert page.count('<div class="math"><math') >= 8
    assert "\\frac" not in page and "$" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_every_document_that_a_docstring_names_exists() -> None:
    named = {}
    for folder in ("sage_jax", "configs", "bench", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for text in docstrings(path):
                for name in re.findall(r"(?<![\w/])((?:[\w-]+/)*[\w-]+\.md)\b", text):
                    named[name] = path.name
    assert "docs/benchmarks.md" in named
    assert {name: by for name, by in named.items() if name not in RUN_OUTPUTS and not (ROOT / name).is_file()} == {}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_field_that_a_document_names_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = set(field_paths())
    sections = {name.split(".")[0] for name in known if "." in name}
    overrides = set(re.findall(r"--config\.([a-z_][\w.]*\w)", text)) - {"field"}
    in_words = set(re.findall(r"`([a-z_]+(?:\.[a-z_][a-z0-9_]*)+)(?:=[^`]*| = [^`]*)?`", text))
    in_words = {
        name
        for name in in_words
        if name.split(".")[0] in sections and not name.endswith((".json", ".safetensors", ".sqlite"))
    }
    assert sorted((overrides | in_words) - known) == []


def test_docstrings_become_rst_with_their_code_and_examples() -> None:
    to_rst = load_extension("plain_docstrings").to_rst
    lines = ["Gap |H_i| of `a|b`, a * b.", "", "    x  `1`", "    y  2", "", "End.", "", "Args:", "    x: A * b."]
    wanted = ["Gap \\|H_i\\| of ``a|b``, a \\* b.", "", "::", "", "    x  `1`", "    y  2", "", "End.", "", "Args:"]
    assert to_rst(lines) == [*wanted, "    x: A \\* b."]
