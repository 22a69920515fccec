"""A trace read by kinds of work: one of a GPU in the format of JAX's profiler, and one made here on the CPU."""

from __future__ import annotations

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bench.profile import About, figures, record
from bench.trace import TraceError, profile_of, read_events, read_work, table

ROOT = Path(__file__).parents[2]
TRACES = Path(__file__).parent / "traces"
PEAK, BANDWIDTH = 1e12, 1e11


def test_kernels_of_a_gpus_streams_are_told_apart_by_kind() -> None:
    """Microseconds of a step on the two streams; not on the lines that group them, nor of the other device."""
    events = read_events(TRACES / "gpu.trace.json")
    work = read_work([(TRACES / "gpu.hlo.txt").read_text()], events)
    profile = profile_of(events, work, steps=2, peak_flops=PEAK, bandwidth=BANDWIDTH)
    found = {kind: (row.events, round(row.seconds * 1e6, 3)) for kind, row in profile.rows.items()}
    assert found == {
        "products": (4, 200.0),
        "attention": (2, 140.0),
        "elementwise": (1, 40.0),
        "copies": (2, 50.0),
        "optimizer": (1, 80.0),
        "collectives": (1, 25.0),
        "gaps": (0, 55.0 + 9420.0 / 2),  # inside each step, and half of what lies between the two
    }
    assert profile.seconds == pytest.approx(10580e-6 / 2)


def test_floors_are_those_of_operations_or_of_bytes() -> None:
    events = read_events(TRACES / "gpu.trace.json")
    work = read_work([(TRACES / "gpu.hlo.txt").read_text()], events)
    asked = {"steps": 2, "peak_flops": PEAK, "bandwidth": BANDWIDTH}
    rows = profile_of(events, work, **asked).rows
    wide, narrow = 2.0 * 512 * 1024 * 2048, 2.0 * 512 * 1024 * 256
    # Two kernels of one instruction, a product and the sum of its parts, are one run of it.
    assert rows["products"].floor == pytest.approx((2 * wide + narrow) / PEAK)
    assert rows["elementwise"].floor == rows["optimizer"].floor == pytest.approx(3 * 512 * 1024 * 4 / BANDWIDTH)
    slice_bytes = 2 * 1024 * 256
    assert rows["copies"].floor == pytest.approx((2 * slice_bytes + 4) / BANDWIDTH)  # of 32 layers one is read
    assert rows["collectives"].floor == 0.0
    given = profile_of(events, work, **asked, attention_flops=7e7).rows["attention"]
    assert given.floor == pytest.approx(7e-5)
    # Library calls bound by memory: where the machine computes without end, bytes are what is left.
    endless = profile_of(events, work, **{**asked, "peak_flops": 1e30}).rows["products"]
    assert endless.floor > rows["copies"].floor


def test_of_programs_of_one_name_the_one_that_ran_counts() -> None:
    """Such as answers of one token and of many."""
    events, text = read_events(TRACES / "gpu.trace.json"), (TRACES / "gpu.hlo.txt").read_text()
    other = text.replace("custom-call.1 ", "custom-call.9 ").replace("bf16[512,2048]", "bf16[4,2048]")
    expected = read_work([text], events)
    assert read_work([other, text], events) == read_work([text, other], events) == expected
    assert read_work([other], events) != expected


def test_kinds_are_told_by_kernels_names_where_no_program_is_kept() -> None:
    rows = profile_of(read_events(TRACES / "gpu.trace.json"), {}, steps=2, peak_flops=PEAK, bandwidth=BANDWIDTH).rows
    assert [rows[kind].events for kind in ("products", "attention", "collectives")] == [4, 2, 1]
    assert all(row.floor == 0.0 for row in rows.values())


def test_a_step_traced_here_is_read_with_its_floors(tmp_path: Path) -> None:
    @jax.jit
    def step(x: jax.Array, weights: jax.Array) -> jax.Array:
        def layer(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
            with jax.named_scope("attention"):
                x = jax.nn.softmax(x @ x.T) @ x
            return jnp.tanh(x @ weight), None

        return jnp.sum(jax.lax.scan(layer, x, weights)[0])

    gradient = jax.jit(jax.grad(step, argnums=1))
    given = jnp.ones((256, 128)), jnp.ones((3, 128, 128))
    jax.block_until_ready(gradient(*given))
    about = About(2, PEAK, BANDWIDTH, 0.0, "cpu")
    profile = record(lambda _: gradient(*given), tmp_path, about)
    rows = profile.rows
    assert all(rows[kind].seconds > 0.0 for kind in ("products", "attention", "elementwise"))
    # Of x W, of its gradients by W and by x: the last of x is not needed.
    assert rows["products"].floor == pytest.approx(8 * 2.0 * 256 * 128 * 128 / PEAK, rel=0.15)
    assert rows["attention"].floor > 3 * 2 * 2.0 * 256 * 256 * 128 / PEAK
    busy = sum(row.seconds for kind, row in rows.items() if kind != "gaps")
    assert rows["gaps"].seconds + busy >= 0.99 * profile.seconds
    assert set(figures(profile)["kinds_ms"]) == set(rows)
    done = subprocess.run(
        [sys.executable, "-m", "bench.profile", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == table(profile).strip()


def test_what_is_no_trace_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no \\*.trace.json.gz below it"):
        read_events(tmp_path)
    broken = tmp_path / "broken.trace.json.gz"
    broken.write_bytes(gzip.compress(b"{}")[:-6])
    with pytest.raises(TraceError, match="broken.trace.json.gz: no trace of jax.profiler"):
        read_events(broken)
    idle = tmp_path / "idle.trace.json"
    idle.write_text(json.dumps({"traceEvents": []}))
    with pytest.raises(TraceError, match="idle.trace.json: no kernel"):
        read_events(idle)
    done = subprocess.run(
        [sys.executable, "-m", "bench.profile", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "--profile wrote" in done.stderr


def test_figures_leave_out_floors_that_are_not_known() -> None:
    events = [dataclasses.replace(event) for event in read_events(TRACES / "gpu.trace.json")]
    found = figures(profile_of(events, {}, steps=2, peak_flops=PEAK, bandwidth=BANDWIDTH))
    assert found["floors_ms"] == {} and found["kinds_ms"]["products"] == 0.2
