"""The GPU figures of docs/benchmarks.md, ten minutes a call, in phases that a next call takes up where it stopped.

    python -m bench.gpu_all --out gpu-figures
    python -m bench.gpu_all --out gpu-figures --peer-python PEER/bin/python
    python -m bench.gpu_all --dry-run

Each phase is a benchmark in a process of its own, so that its peak memory is its own, with a limit in seconds. Its
lines go to `OUT/lines.jsonl` and to the screen, its log to `OUT/PHASE.log`, traces to `OUT/trace-PHASE`
(`bench.profile` prints them). `OUT/phases.json` says which are done: the same command leaves these out and does the
others, the most telling first, while `--minutes` last. `--size tiny` shows on any machine that it runs. Compiled
programs are kept in `OUT/compiled` for a next call, but not for the phase that measures compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.measure import read_lines

ROOT: Final = Path(__file__).parents[1]
LEAST_SECONDS: Final = 15.0
"""With less time left no phase begins."""

XLA_FLAGS: Final = {
    "latency_hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
    "no_command_buffers": "--xla_gpu_enable_command_buffer=",
    "no_triton_gemm": "--xla_gpu_enable_triton_gemm=false",
    "no_autotuning": "--xla_gpu_autotune_level=0",
}
"""Flags of XLA's GPU compiler that the E-DPO step is measured with; the program itself sets none."""


@dataclass(frozen=True)
class Phase:
    """One measurement.

    Attributes:
      command: Module below `bench` with its arguments; `{size}` is the size, `{small}` `1b` where that is `8b`.
      limit: Seconds after which it is ended.
      peer: Whether the peer's interpreter runs it.
      trace: Whether two steps of it are traced too.
      flags: XLA_FLAGS.
    """

    command: str
    limit: float
    peer: bool = False
    trace: bool = False
    flags: str = ""


_EDPO: Final = "edpo_step --size {size} --lora 16 --remat full --rows 1 --questions 5 --repeats 5 --warmup 2"
_DPO: Final = "peer.dpo --size {size} --variant loop --lora 16 --freeze-vision --gradient-checkpointing --repeats 3"
_SHORT: Final = _EDPO.replace("--repeats 5", "--repeats 3")

PHASES: Final = {
    "attention": Phase("attention --size {size} --repeats 20", 60),
    "edpo": Phase(_EDPO, 110, trace=True),
    "edpo_cudnn": Phase(f"{_SHORT} --attention cudnn", 90),
    "generate": Phase("generate --size {size} --weights bfloat16 --rows 1 --repeats 3", 100, trace=True),
    "generate_64": Phase("generate --size {size} --weights bfloat16 --rows 64 --repeats 2", 100),
    "sfe": Phase("sfe_step --size {small} --remat dots --rows 4 --questions 5 --repeats 5", 80, trace=True),
    "compile": Phase("compile_time --size {size} --lora 16 --remat full", 100),
    "edpo_dots": Phase(_SHORT.replace("--remat full", "--remat dots"), 90),
    "peer_dpo": Phase(_DPO, 90, peer=True),
    "peer_generate": Phase("peer.generate --size {size} --rows 1 --repeats 2", 90, peer=True),
    **{f"flags_{name}": Phase(_SHORT, 80, flags=flags) for name, flags in XLA_FLAGS.items()},
}
"""The phases, the most telling first."""


def command_of(name: str, options: argparse.Namespace) -> list[str]:
    """The command line of a phase."""
    phase, small = PHASES[name], "1b" if options.size == "8b" else options.size
    module, *arguments = phase.command.format(size=options.size, small=small).split()
    python = options.peer_python if phase.peer else sys.executable
    trace = ["--profile", str(options.out / f"trace-{name}")] if phase.trace else []
    return [python, "-m", f"bench.{module}", *arguments, *trace]


def environment_of(name: str, options: argparse.Namespace) -> dict[str, str]:
    """The variables of a phase's process."""
    found = dict(os.environ)
    if name != "compile":
        found.setdefault("JAX_COMPILATION_CACHE_DIR", str(options.out / "compiled"))
    if PHASES[name].flags:
        found["XLA_FLAGS"] = f"{found.get('XLA_FLAGS', '')} {PHASES[name].flags}".strip()
    return found


def run(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """Runs a phase and keeps its lines; how it ended, `done`, `over its limit` or `failed`, and after how long."""
    start, log = time.monotonic(), options.out / f"{name}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command_of(name, options),
            cwd=ROOT,
            env=environment_of(name, options),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = "done" if process.wait(timeout=limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            ended = "over its limit"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    with (options.out / "lines.jsonl").open("a", encoding="utf-8") as file:
        for line in read_lines(text):
            found = json.dumps({"phase": name, **line, **({"flags": PHASES[name].flags} if PHASES[name].flags else {})})
            print(found, flush=True)
            file.write(found + "\n")
    state: dict[str, Any] = {"state": ended, "seconds": round(time.monotonic() - start, 1)}
    return state if ended == "done" else state | {"last_line": text[-1] if text else ""}


def main() -> int:
    """Runs the phases that are left; 1 where one of them is left still."""
    options = _options()
    kept = options.out / "phases.json"
    if options.dry_run:
        for name in options.phases:
            flags = f"XLA_FLAGS='{PHASES[name].flags}' " if PHASES[name].flags else ""
            print(f"{name:<26} {PHASES[name].limit:>4.0f} s  {flags}{' '.join(command_of(name, options)[1:])}")
        return 0
    options.out = options.out.absolute()  # phases run in the checkout
    options.out.mkdir(parents=True, exist_ok=True)
    states: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    end = time.monotonic() + 60 * options.minutes
    left = [name for name in options.phases if states.get(name, {}).get("state") != "done"]
    left.sort(key=lambda name: name in states)  # what failed before comes last
    for name in list(left):
        limit = min(PHASES[name].limit, end - time.monotonic())
        if limit < LEAST_SECONDS:
            break
        if PHASES[name].peer and options.peer_python is None:
            print(f"{name}: left out; --peer-python names an interpreter with torch and transformers", file=sys.stderr)
            left.remove(name)
            continue
        states[name] = run(name, options, limit)
        print(json.dumps({"phase": name, **states[name]}), flush=True)
        written = kept.with_suffix(".part")
        written.write_text(json.dumps(states, indent=1), encoding="utf-8")
        written.replace(kept)
        if states[name]["state"] == "done":
            left.remove(name)
    if left:
        print(f"left: {', '.join(left)}; the same command goes on", file=sys.stderr)
    return int(bool(left))


def _options() -> argparse.Namespace:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("phases", nargs="*", metavar="PHASE", help=f"of {', '.join(PHASES)}; left out, all")
    found.add_argument("--out", type=Path, default=Path("gpu-figures"), help="folder for lines, logs and traces")
    found.add_argument("--size", choices=["tiny", "8b"], default="8b")
    found.add_argument("--minutes", type=float, default=10.0, help="time for all phases of this call")
    found.add_argument("--peer-python", help="interpreter that has torch, transformers and peft")
    found.add_argument("--dry-run", action="store_true", help="print the phases, run none")
    options = found.parse_args()
    unknown = [name for name in options.phases if name not in PHASES]
    if unknown:
        found.error(f"there is no phase {', '.join(unknown)}; there are {', '.join(PHASES)}")
    options.phases = options.phases or list(PHASES)
    if options.peer_python is not None and os.sep in options.peer_python:
        options.peer_python = os.path.abspath(options.peer_python)
    return options


if __name__ == "__main__":
    sys.exit(main())
