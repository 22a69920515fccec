"""What every benchmark does: time a step many times, read peak memory, print one line of JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

from bench.profile import STEPS, About, figures, record
from bench.sizes import SIZES, Size, with_options
from bench.trace import table
from sage_jax.models.attention.select import attention_of
from sage_jax.models.sage import compute_dtype
from sage_jax.process.allocator import compute_on_calling_thread, keep_freed_memory

PEAK_TFLOPS: Final = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Dense bfloat16 products of GPUs by a word of their name, from the vendor's data sheets, 10^12 operations a second."""


PEAK_TB_S: Final = {"H200": 4.8, "H100": 3.35, "A100": 2.0, "L40S": 0.864, "L4": 0.3}
"""Memory bandwidth of the same GPUs, 10^12 bytes a second (A100: of the one with 80 GB)."""


class Watch:
    """Seconds between marks, own processor seconds, and how many cores other processes kept busy meanwhile.

    A run that others disturbed (`others_cores` above about 0.1) says little and is to be repeated.
    """

    def __init__(self) -> None:
        _reset_peak_memory()
        self._marks = [self._now()]

    def mark(self) -> float:
        """Ends a measurement, the next begins; the seconds of the one that ends."""
        self._marks.append(self._now())
        return self._marks[-1][0] - self._marks[-2][0]

    def summary(self, of: slice = slice(None)) -> dict[str, float | int]:
        """Median, least and most seconds, own processor seconds (median), measurements, cores that others used.

        Args:
          of: The measurements that count; `others_cores` is of all.
        """
        marks = np.array(self._marks)
        spans = np.diff(marks, axis=0)[of]
        whole = marks[-1] - marks[0]
        return {
            "seconds": round(float(np.median(spans[:, 0])), 5),
            "seconds_min": round(float(spans[:, 0].min()), 5),
            "seconds_max": round(float(spans[:, 0].max()), 5),
            "cpu_seconds": round(float(np.median(spans[:, 1])), 5),
            "n": len(spans),
            "others_cores": round(max(0.0, float((whole[2] - whole[1]) / whole[0])), 2),
        }

    @staticmethod
    def _now() -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), busy_seconds()


def timed(step: Callable[[int], Any], *, warmup: int, repeats: int) -> tuple[dict[str, float | int], float]:
    """Times `step(number)` until its result is there; the first `warmup` calls, which compile, do not count.

    Returns:
      The watch's summary, and seconds of the very first call.
    """
    start = time.perf_counter()
    jax.block_until_ready(step(0))
    first = time.perf_counter() - start
    for number in range(1, warmup):
        jax.block_until_ready(step(number))
    watch = Watch()
    for number in range(warmup, warmup + repeats):
        jax.block_until_ready(step(number))
        watch.mark()
    return watch.summary(), round(first, 2)


def profiled(options: argparse.Namespace, step: Callable[[int], Any], attention_flops: float = 0.0) -> dict[str, Any]:
    """Traces two steps where `--profile` asks for it, prints their table, and gives figures for the measurement's line.

    Args:
      step: Runs a step that has run before.
      attention_flops: Operations of its attention between visible pairs.
    """
    if options.profile is None:
        return {}
    kind = jax.devices()[0].device_kind
    peak = peak_flops(options) / jax.device_count()
    profile = record(step, options.profile, About(STEPS, peak, peak_bandwidth(), attention_flops, kind))
    print(table(profile), flush=True)
    return figures(profile)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--size", choices=SIZES, default="tiny")
    found.add_argument("--tiles", type=int, default=0, help="tiles of an image; 0 = those of the size")
    found.add_argument("--repeats", type=int, default=5, help="measurements that count")
    found.add_argument("--warmup", type=int, default=2, help="measurements before that do not")
    found.add_argument("--remat", choices=["none", "dots", "full"], default="none")
    found.add_argument(
        "--unroll", type=int, default=0, help="model.scan_unroll; 0 = 1, on CPU all layers or 2 with --remat"
    )
    found.add_argument("--attention", default="", help="model.attention; its default where left out")
    found.add_argument("--peak-tflops", type=float, default=0.0, help="of the device, for MFU; 0 = known or measured")
    found.add_argument("--profile", type=Path, help="folder for a trace of two more steps, read into a table by kinds")
    return found


def size_of(options: argparse.Namespace) -> Size:
    """The size with the options' tiles and execution; what follows computes as the program does."""
    compute_on_calling_thread()
    keep_freed_memory()
    size = SIZES[options.size]
    layers = max(size.model.vit.num_layers, size.model.decoder.num_layers)
    on_cpu = layers if options.remat == "none" else 2
    unroll = options.unroll or (on_cpu if jax.default_backend() == "cpu" else 1)
    return with_options(size, tiles=options.tiles, remat=options.remat, unroll=unroll, attention=options.attention)


def say(what: str, options: argparse.Namespace, size: Size, **figures: Any) -> None:
    """Prints a measurement as one line of JSON; figures come before what is said of every one."""
    about = {
        "what": what,
        "size": options.size,
        "tiles": size.tiles,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": os.cpu_count(),
        "dtype": str(jnp.dtype(compute_dtype(size.model))),
        "attention": attention_of(size.model),
        "remat": size.model.remat,
        "jax": jax.__version__,
    }
    print(json.dumps({**about, **figures}), flush=True)


def peak_flops(options: argparse.Namespace) -> float:
    """Operations a second of all devices: as given, of the data sheet, or (on a CPU) measured on a large product."""
    if options.peak_tflops:
        return options.peak_tflops * 1e12 * jax.device_count()
    kind = jax.devices()[0].device_kind
    for name, tflops in PEAK_TFLOPS.items():
        if name in kind:
            return tflops * 1e12 * jax.device_count()
    if jax.default_backend() != "cpu":
        sys.exit(f"error: the peak of {kind} is not known; give --peak-tflops")
    side = 2048
    matrix = jnp.full((side, side), 1e-3, jnp.float32)
    product = jax.jit(jnp.dot)
    jax.block_until_ready(product(matrix, matrix))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(matrix, matrix))
        seconds.append(time.perf_counter() - start)
    return 2.0 * side**3 / statistics.median(seconds)


def peak_bandwidth() -> float:
    """Bytes a second of the first device's memory: of the data sheet, or measured on 256 MB, read and written."""
    kind = jax.devices()[0].device_kind
    for name, rate in PEAK_TB_S.items():
        if name in kind:
            return rate * 1e12
    array, add = jnp.zeros(2**26, jnp.float32), jax.jit(lambda x: x + 1, donate_argnums=0)
    array = jax.block_until_ready(add(array))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        array = jax.block_until_ready(add(array))
        seconds.append(time.perf_counter() - start)
    return 2.0 * array.nbytes / statistics.median(seconds)


def peak_memory_gb() -> float:
    """Most memory since the last watch began, GB: of the first device, or of the process where the device is a CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return round(stats["peak_bytes_in_use"] / 1e9, 3)
    return round(_status("VmHWM") * 1024 / 1e9, 3)


def read_lines(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The measurements among printed lines."""
    return [json.loads(line) for line in lines if line.startswith("{")]


def _reset_peak_memory() -> None:
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # no such file outside Linux, or not ours to write: the peak is then that of the whole process


def _status(field: str) -> int:
    """A figure of this process in kB; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(field))
    except (OSError, StopIteration):
        return 0


def busy_seconds() -> float:
    """Processor seconds that the whole machine has spent; those of this process where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            fields = [int(field) for field in file.readline().split()[1:9]]
    except OSError:
        return time.process_time()
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
