"""The service against the Python API: latency and images a second by number of clients, every answer compared.

    python -m bench.serving --run runs/quickstart --images 256
    python -m bench.serving --run runs/quickstart --images 256 --clients 16 --soak 10000

Drawn parts, each with the reference that was drawn for it, are inspected one by one by `Inspector.inspect`; then
`sage-jax serve` is started in a process of its own, and clients with a connection each send them over and over, the
next as soon as the last is answered. Load and service share the machine. Both sides have seen every image once before
they are timed, so that they have encoded the references (`inspect.reference_memory_mb`). An answer counts as the same
where verdict and reason are, and the score is within 1e-5. A soak sends so many requests more and prints the service's
memory.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

import sage_jax
from bench.measure import busy_seconds
from sage_jax.config import DataConfig
from sage_jax.data.sources.generated import draw
from sage_jax.process.allocator import compute_on_calling_thread, keep_freed_memory, restart_with_huge_pages

_BOUNDARY: Final = "sage-bench"
_TOLERANCE: Final = 1e-5


def parts(number: int) -> list[tuple[bytes, bytes]]:
    """Drawn images of the quickstart's size, each with its reference."""
    data = DataConfig(source="generator", num_train=number, num_test=1, image_px=64)
    return [(each.test_image, each.reference_image or each.test_image) for each in draw(data, "train", 7)]


def body_of(image: bytes, reference: bytes) -> bytes:
    """A multipart body."""
    files = [("image", image), ("reference_images", reference)]
    pieces = []
    for name, content in files:
        head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n\r\n'
        pieces += [head.encode(), content, b"\r\n"]
    return b"".join([*pieces, f"--{_BOUNDARY}--\r\n".encode()])


def one_by_one(run: str, images: Sequence[tuple[bytes, bytes]]) -> tuple[list[dict[str, Any]], list[float], float]:
    """What the Python API finds of each image, its milliseconds, and processor seconds of all, in a second pass."""
    inspector = sage_jax.load(run)
    for image, reference in images:
        inspector.inspect(image, reference)
    found, times, begun = [], [], time.process_time()
    for image, reference in images:
        start = time.perf_counter()
        one = inspector.inspect(image, reference)
        times.append((time.perf_counter() - start) * 1e3)
        found.append({"verdict": one.verdict, "reason": one.reason, "score": one.score})
    return found, times, time.process_time() - begun


@contextlib.contextmanager
def service(run: str, options: Sequence[str]) -> Iterator[tuple[str, int]]:
    """The address and the process id of a service of its own."""
    command = [sys.executable, "-m", "sage_jax", "serve", "--model", run, "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("serve: ready: "):
                break
            print(line, end="", file=sys.stderr)
        else:
            sys.exit("error: the service did not start")
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield line.split()[2].removesuffix(";").removesuffix("/docs"), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(timeout=60):
            print(f"the service ended with {process.returncode}", file=sys.stderr)


def load(
    address: str, bodies: Sequence[bytes], total: int, clients: int
) -> tuple[list[tuple[int, dict[str, Any]]], Any]:
    """The answers, each with the number of its image, and the milliseconds of each request.

    Args:
      total: Requests of all clients together.
    """
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(total):
        numbers.put(number % len(bodies))
    answers: list[tuple[int, dict[str, Any]]] = []
    times: list[float] = []
    host = urllib.parse.urlsplit(address).netloc

    def client() -> None:
        connection = http.client.HTTPConnection(host, timeout=120)
        kind = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        while True:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            start = time.perf_counter()
            connection.request("POST", "/v1/inspect", bodies[number], kind)
            response = connection.getresponse()
            content = response.read()
            times.append((time.perf_counter() - start) * 1e3)
            answers.append((number, json.loads(content) if response.status == 200 else {"status": response.status}))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, np.array(times)


def differing(answers: Sequence[tuple[int, dict[str, Any]]], expected: Sequence[dict[str, Any]]) -> int:
    """Answers that are not those of the Python API."""
    count = 0
    for number, answer in answers:
        wanted = expected[number]
        same = all(answer.get(name) == wanted[name] for name in ("verdict", "reason"))
        count += not (same and abs(answer["score"] - wanted["score"]) <= _TOLERANCE)
    return count


def memory_mb(process: int) -> float:
    """Resident memory of a process, 10^6 bytes."""
    with open(f"/proc/{process}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024 / 1e6


def cpu_seconds(process: int) -> float:
    """Processor seconds of a process so far."""
    with open(f"/proc/{process}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measured(name: str, seconds: float, times: Any, **about: Any) -> float:
    """Prints a measurement; images a second."""
    rate = len(times) / seconds
    line = {
        "what": name,
        "images": len(times),
        "p50_ms": round(float(np.percentile(times, 50)), 1),
        "p95_ms": round(float(np.percentile(times, 95)), 1),
        "images_per_s": round(rate, 2),
        "cores": os.cpu_count(),
    }
    print(json.dumps({**line, **about}), flush=True)
    return rate


def main() -> None:
    """Measures and prints."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--run", required=True, help="a run folder, such as the quickstart's")
    found.add_argument("--images", type=int, default=256, help="different images")
    found.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    found.add_argument("--soak", type=int, default=0, help="further requests, for the memory")
    found.add_argument("--serve", nargs="*", default=[], help="options of the service as `serve.field=value`")
    options = found.parse_args()
    compute_on_calling_thread()
    keep_freed_memory()
    images = parts(options.images)
    start, busy = time.perf_counter(), busy_seconds() - time.process_time()
    expected, times, cpu = one_by_one(options.run, images)
    others = (busy_seconds() - time.process_time() - busy) / (time.perf_counter() - start)
    about: dict[str, Any] = {"cpu_ms": round(cpu / len(images) * 1e3, 1), "others_cores": round(others, 2)}
    alone = measured("one_by_one", sum(times) / 1e3, np.array(times), **about)
    bodies = [body_of(*each) for each in images]
    fields = [f"--{each.partition('=')[0].replace('_', '-')}={each.partition('=')[2]}" for each in options.serve]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as held:
        good = Path(folder) / "good.png"
        good.write_bytes(images[0][1])  # so that the service compiles for images with a reference
        address, process = held.enter_context(service(options.run, ["--references", str(good), *fields]))
        warm = max(len(bodies), 2 * max(options.clients))
        load(address, bodies, warm, max(options.clients))  # references, connections, threads
        for clients in options.clients:
            start, begun, own = time.perf_counter(), cpu_seconds(process), time.process_time()
            answers, times = load(address, bodies, options.images, clients)
            seconds, cpu = time.perf_counter() - start, cpu_seconds(process) - begun
            about = {"clients": clients, "cpu_ms": round(cpu / len(times) * 1e3, 1)}
            own = time.process_time() - own
            about["load_cpu_ms"] = round(own / len(times) * 1e3, 1)
            about["over_one_by_one"] = round(len(times) / seconds / alone, 2)
            measured("serving", seconds, times, differing=differing(answers, expected), **about)
        step = max(1, options.soak // 10)
        for done in range(0, options.soak, step):
            start = time.perf_counter()
            answers, times = load(address, bodies, step, max(options.clients))
            about = {"sent": done + step, "memory_mb": round(memory_mb(process), 1)}
            measured("soak", time.perf_counter() - start, times, differing=differing(answers, expected), **about)


if __name__ == "__main__":
    restart_with_huge_pages()
    main()
