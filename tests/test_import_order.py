"""Imports go to a strictly lower layer or one way inside a folder; models and losses need only accelerator packages."""

from __future__ import annotations

import ast
import graphlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sage_jax"
SHIPPED = "remote_code"
"""Folder of files that are copied beside an exported model and run there, by torch: no modules of the package."""
ARCHITECTURE = Path(__file__).parents[1] / "docs" / "architecture.md"

# File or folder of the package -> layer; docs/architecture.md shows the same table.
LAYERS = {
    name: layer
    for layer, names in enumerate(
        (
            ("errors", "axes"),
            ("process",),
            ("config", "batch", "parameters", "verdict", "endpoint"),
            ("sharding",),
            ("models", "losses", "metrics", "data"),
            ("generation", "hf", "journal", "corrections"),
            ("features", "training", "evaluation"),
            ("inspection", "judging", "benchmark", "plan"),
            ("serving",),
            ("review", "watching"),
            ("stages",),
            ("api",),
            ("main", "command_options", "version_commands"),
            ("cli",),
            ("__main__",),
        )
    )
    for name in names
}
ACCELERATOR_PACKAGES = {"jax", "flax", "optax", "numpy", "jaxtyping"}
EXTRA_PACKAGES = {"config": {"ml_collections", "absl"}, "metrics": {"sklearn", "scipy"}, "process": {"absl"}}
METHOD_LAYER = LAYERS["models"]


def modules(package: Path) -> dict[str, Path]:
    """Source file of each module, by its name below the package: `models.vit`, `main`, `data` for its `__init__`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if SHIPPED in parts:
            continue
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere in it, inside functions too; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def internal_imports(package: Path) -> dict[str, set[str]]:
    """Modules of the package that each of its modules imports."""
    known = modules(package)
    edges: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for target in imported(path):
            if target.startswith("."):
                edges[name].add(target)
            elif target.split(".")[0] == package.name:
                below = target.split(".")[1:]
                # `from package.module import name` names a module or something in it: the longest module wins.
                while below and ".".join(below) not in known:
                    below.pop()
                edges[name].add(".".join(below))
    return edges


def order_faults(package: Path, layers: dict[str, int]) -> list[str]:
    """Every import that goes up, sideways or round in a circle, as a sentence."""
    faults = []
    inside: dict[str, dict[str, set[str]]] = {}
    for name, targets in internal_imports(package).items():
        head = name.split(".")[0]
        for target in sorted(targets - {name}):
            to = target.split(".")[0]
            if target.startswith("."):
                faults.append(f"{name}: relative import {target}; write it from {package.name}")
            elif not to:
                faults.append(f"{name}: imports the package itself; import the module that is meant")
            elif head == to:
                inside.setdefault(head, {}).setdefault(name, set()).add(target)
            elif head in layers and to in layers and layers[head] <= layers[to]:
                faults.append(f"{name} (layer {layers[head]}) imports {target} (layer {layers[to]})")
    for head, graph in inside.items():
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            faults.append(f"cycle inside {head}: {' -> '.join(error.args[1])}")
    return faults


def foreign_packages(package: Path, name: str) -> set[str]:
    """Packages outside the standard library that a module imports."""
    tops = {target.split(".")[0] for target in imported(modules(package)[name])}
    return tops - set(sys.stdlib_module_names) - {package.name, "__future__", ""}


def test_every_file_has_a_layer_and_every_layer_a_file() -> None:
    heads = {name.split(".")[0] for name in modules(PACKAGE)} - {""}
    assert heads == set(LAYERS)


def test_architecture_page_shows_the_same_layers() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", ARCHITECTURE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)} == LAYERS


def test_the_package_never_imports_torch_nor_what_it_ships_for_torch() -> None:
    faults = [name for name in modules(PACKAGE) if foreign_packages(PACKAGE, name) & {"torch", "torchvision"}]
    faults += [name for name, path in modules(PACKAGE).items() if any(SHIPPED in target for target in imported(path))]
    assert faults == []
    assert {path.suffix for path in (PACKAGE / "hf" / SHIPPED).iterdir()} - {""} == {".py"}


def test_imports_go_to_a_lower_layer_or_one_way_inside_a_folder() -> None:
    assert order_faults(PACKAGE, LAYERS) == []


def test_layers_below_training_need_only_the_accelerator_packages() -> None:
    faults = []
    for name in modules(PACKAGE):
        head = name.split(".")[0]
        if LAYERS.get(head, 0) <= METHOD_LAYER and head != "data":
            foreign = foreign_packages(PACKAGE, name) - ACCELERATOR_PACKAGES - EXTRA_PACKAGES.get(head, set())
            faults += [f"{name} imports {package}" for package in sorted(foreign)]
    assert faults == []


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"low.py": "from pkg.high import run\n"}, "low (layer 0) imports high (layer 1)"),
        ({"low.py": "def f():\n    import pkg.high\n"}, "low (layer 0) imports high (layer 1)"),
        ({"side.py": "from pkg import high\n"}, "side (layer 1) imports high (layer 1)"),
        (
            {"folder/a.py": "import pkg.folder.b\n", "folder/b.py": "from pkg.folder import a\n"},
            "cycle inside folder: ",
        ),
        ({"folder/a.py": "from . import b\n", "folder/b.py": ""}, "folder.a: relative import ..b; write it from pkg"),
        ({"high.py": "from pkg import VERSION\n"}, "high: imports the package itself; import the module that is meant"),
    ],
)
def test_each_kind_of_wrong_import_is_found(tmp_path: Path, files: dict[str, str], fault: str) -> None:
    package = tmp_path / "pkg"
    (package / "folder").mkdir(parents=True)
    for name, text in {"__init__.py": "", "folder/__init__.py": "", "low.py": "", "high.py": "", **files}.items():
        (package / name).write_text(text, encoding="utf-8")
    (found,) = order_faults(package, {"low": 0, "high": 1, "side": 1, "folder": 0})
    assert found.startswith(fault)
