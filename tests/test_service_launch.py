"""What puts the service into operation names files, extras and options that exist. No image is built here."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sage_jax import cli, main

ROOT = Path(__file__).parents[1]
SERVICE = ROOT / "launch" / "service"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"])


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments."""
    text = (SERVICE / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str]) -> Any:
    """The config that a command line starts with, its paths those of folders that exist."""
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    found: list[Any] = []
    monkeypatch.setattr(main, "run_program", lambda config, command: found.append(config) or 0)
    here = [re.sub(r"(?<==)/[\w/]+|^/[\w/]+", str(tmp_path), argument) for argument in arguments]
    assert cli.main(here) == 0
    (config,) = found
    return config


def test_the_dockerfile_copies_files_that_exist_and_installs_extras_that_do() -> None:
    known = {
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    found = instructions()
    assert {name for name, _ in found} <= known and found[1][0] == "FROM"
    copied = [path for name, words in found if name == "COPY" for path in words.split()[:-1]]
    assert {"pyproject.toml", "sage_jax", "configs"} <= set(copied)
    for path in copied:
        assert (ROOT / path).exists(), path
    let_in = set(
        re.findall(r"^!(.+)$", (SERVICE / "Dockerfile.dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert let_in == set(copied)
    (extras,) = [words.partition("=")[2] for name, words in found if name == "ARG" and words.startswith("EXTRAS")]
    assert set(extras.split(",")) <= EXTRAS
    text = (SERVICE / "Dockerfile").read_text(encoding="utf-8")
    for given in re.findall(r"EXTRAS=([\w,]+)", text):
        assert set(given.split(",")) <= EXTRAS
    for name in re.findall(r"\$\{(\w+)\}", text):
        assert f"ARG {name}=" in text


def test_what_the_build_needs_is_copied() -> None:
    """hatchling reads the files that pyproject.toml names; a build without one of them fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    copied = {path for name, words in instructions() if name == "COPY" for path in words.split()[:-1]}
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    assert needed <= copied


def test_the_image_starts_a_command_that_parses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = dict(instructions())
    assert json.loads(found["ENTRYPOINT"]) == ["sage-jax"]
    config = started(monkeypatch, tmp_path, json.loads(found["CMD"]))
    assert config.stages == "serve" and config.serve.host == "0.0.0.0" and str(config.serve.port) == found["EXPOSE"]
    check = json.loads(found["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "healthcheck", "exec")
    assert f":{config.serve.port}/health" in check[2]


def test_compose_starts_the_same_image_with_options_that_parse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = yaml.safe_load((SERVICE / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert set(found) == {"cpu", "cuda"} and found["cuda"]["profiles"] == ["cuda"]
    for service in found.values():
        build = service["build"]
        assert (SERVICE / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).is_file()
        assert set(build["args"]["EXTRAS"].split(",")) <= EXTRAS
        config = started(monkeypatch, tmp_path, service["command"])
        assert config.serve.api_key_env in service["environment"]
        inside = {
            volume.split(":")[-1 if volume.count(":") == 1 else -2] for volume in service["volumes"] if ":ro" in volume
        }
        given = {argument.partition("=")[2] for argument in service["command"] if "=/" in argument}
        mounted = {re.sub(r"^\$\{[^}]*\}:", "", volume).removesuffix(":ro") for volume in service["volumes"]}
        assert inside <= mounted and given <= mounted


def unit() -> str:
    return (SERVICE / "sage-jax.service").read_text(encoding="utf-8")


def test_the_unit_starts_a_command_that_parses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (start,) = re.findall(r"^ExecStart=(.*)$", unit(), re.MULTILINE)
    program, *arguments = shlex.split(start)
    assert program.endswith("/bin/sage-jax")
    config = started(monkeypatch, tmp_path, arguments)
    assert config.stages == "serve" and config.watch.folder and config.serve.api_key_env


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on this machine: the unit is not checked by it")
    (tmp_path / "key.env").write_text("SAGE_KEY=key\n", encoding="utf-8")
    text = unit().replace("/path/to/venv/bin/sage-jax", sys.executable).replace("User=sage\n", "User=root\n")
    path = tmp_path / "sage-jax.service"
    path.write_text(text.replace("/path/to/line3/sage.env", str(tmp_path / "key.env")), encoding="utf-8")
    done = subprocess.run([program, "verify", "--man=no", str(path)], capture_output=True, text=True)
    faults = [line for line in done.stderr.splitlines() if "sage-jax.service" in line]
    assert faults == []
    path.write_text(text.replace("Restart=on-failure", "Restart=sometimes"), encoding="utf-8")
    assert (
        "restart" in subprocess.run([program, "verify", "--man=no", str(path)], capture_output=True, text=True).stderr
    )
