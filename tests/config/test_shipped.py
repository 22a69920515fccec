"""The shipped configs, found by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sage_jax.config.shipped import find_config, shipped_configs, summary_of
from sage_jax.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_folder_is_shipped_by_its_name() -> None:
    assert shipped_configs() == {path.stem: path for path in sorted((ROOT / "configs").glob("*.py"))}
    assert {"quickstart", "deeppcb", "own_parts", "sage_8b"} <= shipped_configs().keys()


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_config("quickstart") == ROOT / "configs" / "quickstart.py"
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text('"""Mine."""')
    assert find_config("quickstart") == Path("quickstart")
    assert find_config(os.fspath(ROOT / "configs" / "ablation.py")) == ROOT / "configs" / "ablation.py"


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"--config quikstart: there is no such file, .* there are .*quickstart"):
        find_config("quikstart")


def test_each_has_a_summary_of_one_line(tmp_path: Path) -> None:
    for name, path in shipped_configs().items():
        assert 20 < len(summary_of(path)) <= 120, name
    (tmp_path / "bare.py").write_text("x = 1\n")
    assert summary_of(tmp_path / "bare.py") == ""
