"""The configs that come with the package: one experiment a file, found by its name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

from sage_jax.errors import ConfigError

_PACKAGE: Final = Path(__file__).parents[1]
_FOLDERS: Final = (_PACKAGE / "configs", _PACKAGE.parent / "configs")
"""In an installed package, and in a checkout."""


def shipped_configs() -> dict[str, Path]:
    """File of each shipped config, by its name, such as `quickstart`."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.py"))} if folder else {}


def find_config(name: str) -> Path:
    """The file that a config's path or name stands for; a file that is there wins over a name.

    Raises:
      ConfigError: There is neither; the message lists the names.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    raise ConfigError(
        f"--config {name}: there is no such file, and no shipped config of that name; there are {', '.join(shipped)}"
    )


def summary_of(path: Path) -> str:
    """First line of a config file's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
