"""The launchers start the one program with the arguments they were given; stand-ins take the clusters' commands."""

from __future__ import annotations

import json
import os
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
ARGUMENTS = ["configs/quickstart.py", "--config.text.system=Say 'no' or \"yes\"; $HOME * done", "--config.seed=3"]


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[dict[str, str], Path]:
    """Environment with stand-ins for Python, which records what it is given, `srun` and `gcloud`; and the record."""
    record, programs = tmp_path / "record.jsonl", tmp_path / "programs"
    programs.mkdir()
    scripts = {
        "python": "import json, os, sys\n"
        "row = [sys.argv[1:], os.environ.get('SAGE_JAX_DISTRIBUTED')]\n"
        f"open({str(record)!r}, 'a').write(json.dumps(row) + '\\n')\n",
        # Runs what stands after its own options, as one task of a step would.
        "srun": "import itertools, os, sys\n"
        "command = list(itertools.dropwhile(lambda a: a.startswith('--'), sys.argv[1:]))\n"
        "os.execvp(command[0], command)\n",
        # `scp FILE HOST:` copies to the worker's home, `ssh --command=TEXT` hands its text to a shell there.
        "gcloud": "import os, shutil, subprocess, sys\n"
        "home, verb = os.environ['WORKER'], sys.argv[4]\n"
        "if verb == 'scp':\n    shutil.copy(sys.argv[5], home)\n"
        "for a in sys.argv if verb == 'ssh' else ():\n    if a.startswith('--command='):\n"
        "        subprocess.run(['bash', '-c', a.removeprefix('--command=')], cwd=home, check=True)\n",
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
        (programs / name).chmod(0o755)
    worker = tmp_path / "worker"
    (worker / "sage_jax" / ".venv" / "bin").mkdir(parents=True)
    (worker / "sage_jax" / ".venv" / "bin" / "python").symlink_to(programs / "python")
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHON": "python",
        "WORKER": str(worker),
        "TPU": "pod",
        "ZONE": "zone",
    }
    environment.pop("SAGE_JAX_DISTRIBUTED", None)
    return environment, record


@pytest.mark.parametrize(("script", "distributed"), [("local.sh", None), ("gpu_slurm.sh", "1"), ("tpu_pod.sh", "1")])
def test_overrides_arrive_as_they_were_given(
    script: str, distributed: str | None, recorded: tuple[dict[str, str], Path]
) -> None:
    environment, record = recorded
    subprocess.run([LAUNCH / script, *ARGUMENTS], cwd=ROOT, env=environment, check=True, capture_output=True)
    last = json.loads(record.read_text(encoding="utf-8").splitlines()[-1])
    assert last == [["-m", "sage_jax.main", "--config", *ARGUMENTS], distributed]


@pytest.mark.parametrize("script", ["local.sh", "gpu_slurm.sh", "tpu_pod.sh"])
def test_a_launcher_without_a_config_says_what_to_give(script: str, recorded: tuple[dict[str, str], Path]) -> None:
    environment, record = recorded
    done = subprocess.run([LAUNCH / script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "name a config file" in done.stderr
    assert not record.exists()


def test_kubernetes_pods_find_each_other() -> None:
    text = (LAUNCH / "gpu_kubernetes.yaml").read_text(encoding="utf-8")
    values = {
        "NAME": "boards",
        "IMAGE": "image",
        "CONFIG": "configs/quickstart.py",
        "PODS": "2",
        "GPUS": "8",
        "CLAIM": "disk",
    }
    parts = {part["kind"]: part for part in yaml.safe_load_all(string.Template(text).substitute(values))}
    job, pod = parts["Job"]["spec"], parts["Job"]["spec"]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 2
    assert pod["subdomain"] == parts["Service"]["metadata"]["name"]
    assert parts["Service"]["spec"]["selector"] == {"job-name": parts["Job"]["metadata"]["name"]}
    assert pod["serviceAccountName"] == parts["ServiceAccount"]["metadata"]["name"]
    assert parts["RoleBinding"]["roleRef"]["name"] == parts["Role"]["metadata"]["name"]


def test_launchers_hold_no_hyper_parameter() -> None:
    allowed = {"run_dir", "data.cache_dir", "field"}
    for path in [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.yaml")]:
        fields = set(re.findall(r"--config\.([\w.]+)", path.read_text(encoding="utf-8")))
        assert fields <= allowed, f"{path.name} sets {fields - allowed}"


def test_the_package_reads_the_variable_that_launchers_set() -> None:
    variables = set()
    for path in [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.yaml")]:
        variables |= set(re.findall(r"\bSAGE_JAX_[A-Z]+\b", path.read_text(encoding="utf-8")))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "sage_jax").rglob("*.py"))
    assert variables == {"SAGE_JAX_DISTRIBUTED"}
    assert {variable for variable in variables if f'"{variable}"' not in sources} == set()
