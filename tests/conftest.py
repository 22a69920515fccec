"""Eight simulated CPU devices, and shapes and types checked at run time in the model and the losses."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.support.tiny_run import QUICK_TO_COMPILE, TinyRun, run_main

# None of the imports above loads jax, which reads both when it is first imported. A machine with an accelerator runs
# the same tests on the same devices.
_FLAGS = ("--xla_force_host_platform_device_count=8", QUICK_TO_COMPILE)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Programs that tests start compile the same, and so do tests that train: they share what takes long to compile.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled_")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES", "none")  # or the folder would be part of every key

_GENERATION = ("decoding", "continuous_decode", "sampling")
LONGEST = (
    "generation/test_continuous_batching.py",
    "test_end_to_end.py",
    "plan/test_memory.py",
    "evaluation/test_evaluate.py",
    "test_resources.py",
    "test_tutorial.py",
    "stages/test_export_parity.py",
    "stages/test_learning.py",
    "generation/test_responder.py",
    "inspection/test_resumed.py",
    "models/test_sage.py",
    "stages/test_calibration.py",
    "bench/test_peer.py",
    "stages/test_facts.py",
    "test_multi_process.py",
    "stages/test_watching.py",
    "test_wheel.py",
    "stages/test_benchmark.py",
    "generation/test_dialogue.py",
    "stages/test_serving.py",
    "test_several_programs.py",
    "stages/test_chinese.py",
    "bench/test_bench.py",
    "stages/test_recompute.py",
    "training/test_loop.py",
    "inspection/test_batches.py",
    "bench/test_compare.py",
    "stages/test_ablation.py",
    "models/attention/test_tree.py",
    "stages/test_scoring.py",
    "data/stream/test_pipeline.py",
    "stages/test_run.py",
    "serving/test_service.py",
    "watching/test_watcher.py",
    "test_review_path.py",
    "bench/test_gpu_all.py",
    "review/test_page.py",
    "models/test_lora.py",
    "test_api.py",
    "models/attention/test_select.py",
    "stages/test_rows_parity.py",
    "training/test_lora_params.py",
    "training/test_objectives.py",
    "stages/test_own_parts.py",
    "stages/test_start.py",
    "training/test_loop_resumed.py",
    "stages/test_familiarity.py",
    "plan/test_simulated.py",
    "inspection/test_inspect.py",
    "test_sharding.py",
)
"""Files that take minutes, the longest first. Of two files in a row at most one waits for `tiny_run`."""
_CHECKED = ("models", "losses", *(f"generation.{name}" for name in _GENERATION))
install_import_hook([f"sage_jax.{name}" for name in _CHECKED], "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first: begun last, each would keep one process busy while the others have ended."""
    order = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of data beside the checkout, which a checkout alone does not have."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder.name!r} beside the checkout: tests on its images do not run")
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run of every stage but the ablation on the tiny config; the processes of a parallel test run share it."""
    base = tmp_path_factory.getbasetemp()
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    folder = (base.parent if parallel else base) / "tiny_run"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = [folder / name for name in ("stdout.txt", "stderr.txt")]
        if not said[-1].exists():
            run = run_main(folder)
            said[0].write_text(run.stdout, encoding="utf-8")
            said[1].write_text(run.stderr, encoding="utf-8")
    return TinyRun(folder, *(path.read_text(encoding="utf-8") for path in said))


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Runs in this process are on one of its devices, for which programs compile in two thirds of the time."""
    import jax

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs() -> Iterator[None]:
    """Forgets a file's compiled functions after it, which no other file calls: they would fill gigabytes."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """The compilations since the test began."""
    from jax import monitoring

    found: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(event)

    monitoring.register_event_duration_secs_listener(note)
    yield found
    monitoring.unregister_event_duration_listener(note)
