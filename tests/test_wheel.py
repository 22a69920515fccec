"""The wheel alone, in an empty folder: the command, a training, an inspection, and the README's own Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.photographs import drawn
from tests.support.tiny_run import CONFIG, PROGRAM, ROOT

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


class Installed:
    """An environment with the wheel and what it depends on, and an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        environment = folder / "environment"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        self.bin = environment / "bin"
        (packages,) = environment.glob("lib/python*/site-packages")
        # The dependencies are those of this environment; the package itself can only be the wheel's.
        (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "-q", "--no-deps"]
        subprocess.run([*command, "--force-reinstall", str(wheel)], check=True, capture_output=True, timeout=300)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        left_out = ("PYTHONPATH", "VIRTUAL_ENV", "XLA_FLAGS")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        environment |= {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            **PROGRAM,
        }
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert ended.returncode == 0, ended.stderr
        return ended


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    made = Installed(tmp_path_factory.mktemp("installed"), wheel)
    shutil.copy(CONFIG, made.folder / "tiny.py")
    for number, folder in enumerate(("photos", "good_photos")):
        (made.folder / folder).mkdir()
        (made.folder / folder / "bottle.png").write_bytes(drawn()[number].test_image)
    yield made


def test_the_wheel_has_all_that_runs_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {"sage_jax/configs/quickstart.py", "sage_jax/data/adpl/vocabulary.toml", "sage_jax/hf/model_card.md.jinja"}
    assert wanted | {"sage_jax/inspection/report.html.jinja", "sage_jax/hf/remote_code/modeling_sage.py"} <= set(names)
    assert {name.split("/")[0] for name in names} == {"sage_jax", f"sage_jax-{VERSION}.dist-info"}


def test_the_command_and_its_configs_are_there(installed: Installed) -> None:
    assert installed.run("sage-jax", "--version").stdout == f"{VERSION}\n"
    listed = installed.run("sage-jax", "configs").stdout
    assert {path.stem for path in (ROOT / "configs").glob("*.py")} == {line.split()[0] for line in listed.splitlines()}
    # A config that builds on another finds it without a checkout, and the long command takes a name too.
    checked = installed.run("sage-jax", "plan", "sage_8b_lora", "--plan.stages", "sfe", "--plan.no-compile")
    assert "sfe" in checked.stdout
    usage = installed.run("python", "-m", "sage_jax.main", "--help").stdout
    assert "--config" in usage


def test_training_inspection_and_the_readmes_python(installed: Installed) -> None:
    stages = "prepare,base,sfe"
    data = ["--data.num-train", "24", "--data.cache-dir", "cache"]
    installed.run("sage-jax", "train", "tiny.py", "--run-dir", "runs/quickstart", "--stages", stages, *data)
    said = installed.run("sage-jax", "inspect", "photos", "--model", "runs/quickstart", "--references", "good_photos")
    assert said.stdout.startswith("1 image: ") and (installed.folder / "runs/quickstart/inspect/report.html").is_file()
    block = re.search(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block is not None
    assert len([line for line in block[1].splitlines() if line]) <= 6
    (installed.folder / "six_lines.py").write_text(block[1], encoding="utf-8")
    printed = installed.run("python", "six_lines.py").stdout
    assert printed.startswith("photos/bottle.png: ") and "compared with good_photos/bottle.png" in printed
    assert (installed.folder / "bottle_overlay.png").read_bytes().startswith(b"\x89PNG")
