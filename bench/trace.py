"""A profiler's trace read by kinds of work, each beside its floor: what `bench.profile` prints.

A trace has an event for each kernel (GPU: the streams of the first device) or each operation of a program (CPU), with
the HLO instruction that it computes. The program's HLO text says what that instruction is, which bytes it has to move
and which operations it has to compute:

    floor of an instruction = max(operations / peak, bytes / bandwidth)

Bytes are operands and results, of a slice of a larger array the slice. A kernel of attention shows no operations there:
`attention_flops` brings them.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sage_jax.plan.hlo import CALLED, OPERAND, Instructions, array_bytes, computations_of

KINDS: Final = ("products", "attention", "elementwise", "copies", "optimizer", "collectives")
"""Kinds of work; `gaps` are the times between them in which the device does nothing."""

_CONTAINERS: Final = ("while", "conditional", "call", "async-start", "async-done")
_BY_NAME: Final = (
    (
        "collectives",
        re.compile(r"nccl|all-?_?reduce|all-?_?gather|reduce-?_?scatter|all-?_?to-?_?all|collective", re.I),
    ),
    ("attention", re.compile(r"fmha|flash|sdpa|tree_attention|splash", re.I)),
    ("products", re.compile(r"gemm|cutlass|nvjet|cublas|wgmma|\bdot\b|splitk", re.I)),
    ("copies", re.compile(r"memcpy|memset|^copy|^wrapped_copy|transpose", re.I)),
)
_SCOPES: Final = (("optimizer", "/optimizer/"), ("attention", "/attention/"))
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_SHAPE = re.compile(r"\[([\d,]*)\]")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}|\"lhs_contracting_dimensions\":\[([\"\d,]*)\]")
_SLICES: Final = ("dynamic-slice", "slice", "gather")
_VIEWS: Final = ("bitcast", "reshape", "get-tuple-element")


class TraceError(Exception):
    """A file that is no trace, or one in which no device or program ran."""


@dataclasses.dataclass(frozen=True)
class Event:
    """A kernel or an operation that ran.

    Attributes:
      name: Of the kernel; on a CPU of the instruction.
      module, instruction: Program and HLO instruction; "" where the trace does not tell.
      start, seconds: When and how long.
    """

    name: str
    module: str
    instruction: str
    start: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Work:
    """What an HLO instruction has to do each time that it runs.

    Attributes:
      kind: One of KINDS; "" where the name of its kernel tells.
      opcode: Its opcode.
      scope: Path of the traced function.
      flops, size: Operations of matrix products, and bytes.
    """

    kind: str
    opcode: str
    scope: str
    flops: float
    size: int


@dataclasses.dataclass
class Row:
    """One kind's part of a step.

    Attributes:
      events: Kernels or operations of a step.
      seconds, floor: Time, and the least that a device at its peak could take; floor 0 = not known.
    """

    events: float = 0.0
    seconds: float = 0.0
    floor: float = 0.0


@dataclasses.dataclass(frozen=True)
class Profile:
    """A step by kinds.

    Attributes:
      seconds: Of a step, from the first event to the last.
      rows: By kind, `gaps` last. Kernels of several streams overlap, and their times then add up to more than a step's.
      slowest: Instructions that lose most against their floors: name, kind, seconds and floor of a step.
    """

    seconds: float
    rows: dict[str, Row]
    slowest: list[tuple[str, str, float, float]]


def read_events(path: Path) -> list[Event]:
    """Events of a trace, `*.trace.json.gz` or that of the newest one below a folder, in order of time.

    Raises:
      TraceError: No such file, or nothing in it that a device or a program did.
    """
    if path.is_dir():
        found = sorted(path.rglob("*.trace.json.gz"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise TraceError(f"{path}: no *.trace.json.gz below it; give a folder that --profile wrote")
        path = found[-1]
    try:
        data = path.read_bytes()
        listed = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)["traceEvents"]
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: no trace of jax.profiler ({error})") from None
    events = sorted(_of_devices(listed) or _of_programs(listed), key=lambda event: event.start)
    if not events:
        raise TraceError(f"{path}: no kernel and no operation of a program ran in this trace")
    return events


def _names(listed: Iterable[Mapping[str, Any]], kind: str) -> dict[Any, str]:
    """Names of processes by pid, or of threads by pid and tid."""
    named = (one for one in listed if one.get("ph") == "M" and one.get("name") == kind)
    return {(one["pid"], one.get("tid")) if kind == "thread_name" else one["pid"]: one["args"]["name"] for one in named}


def _of_devices(listed: list[Mapping[str, Any]]) -> list[Event]:
    """Kernels on the streams of the first device; lines that group them again are left out."""
    devices = {pid: name for pid, name in _names(listed, "process_name").items() if name.startswith("/device:")}
    if not devices:
        return []
    first = min(devices, key=lambda pid: devices[pid])
    threads = _names(listed, "thread_name")
    streams = {key for key, name in threads.items() if key[0] == first and name.startswith("Stream #")}
    streams = streams or {key for key, name in threads.items() if key[0] == first and name == "XLA Ops"}  # on a TPU
    return [_event(one) for one in listed if one.get("ph") == "X" and (one["pid"], one.get("tid")) in streams]


def _of_programs(listed: list[Mapping[str, Any]]) -> list[Event]:
    return [_event(one) for one in listed if one.get("ph") == "X" and "hlo_op" in one.get("args", {})]


def _event(one: Mapping[str, Any]) -> Event:
    args = one.get("args", {})
    instruction = args.get("hlo_op", "")
    return Event(one["name"], args.get("hlo_module", ""), instruction, one["ts"] * 1e-6, one.get("dur", 0.0) * 1e-6)


def read_work(texts: Iterable[str], events: Iterable[Event]) -> dict[tuple[str, str], Work]:
    """What the instructions of compiled programs have to do, by program and instruction.

    Of several programs of one name, the one counts that has the most of the instructions that ran.
    """
    ran: dict[str, set[str]] = defaultdict(set)
    for event in events:
        ran[event.module].add(event.instruction)
    found: dict[str, tuple[int, dict[str, Work]]] = {}
    for text in texts:
        named = re.match(r"HloModule ([^\s,]+)", text)
        module = named[1] if named else ""
        computations, _ = computations_of(text)
        work = {
            name: _work(one, instructions, computations)
            for instructions in computations.values()
            for name, one in instructions.items()
        }
        known = len(ran[module] & work.keys())
        if module not in found or known > found[module][0]:
            found[module] = known, work
    return {(module, name): one for module, (_, work) in found.items() for name, one in work.items()}


def _work(one: Mapping[str, str], around: Instructions, computations: Mapping[str, Instructions]) -> Work:
    called = CALLED.search(one["rest"]) if one["kind"] == "fusion" else None
    inside = computations.get(called[1], {}) if called else {}
    products = [inner for inner in inside.values() if inner["kind"] in ("dot", "convolution")]
    flops = sum(_dot_flops(inner, inside) for inner in products) or _dot_flops(one, around)
    named = _OP_NAME.search(one["rest"])
    scope = named[1] if named else ""
    kind = next((kind for kind, part in _SCOPES if part in f"/{scope}/"), "")
    if not kind and flops:
        kind = "products"
    moved = {inner["kind"] for inner in inside.values()} - {"parameter", "constant", "bitcast", "tuple"}
    if not kind and moved and moved <= {"copy", "transpose", *_SLICES, "dynamic-update-slice", "reshape"}:
        kind = "copies"
    size = _fusion_bytes(one, inside) if inside else _plain_bytes(one, around)
    return Work(kind, one["kind"], scope, flops, size)


def _operands(one: Mapping[str, str], around: Instructions) -> list[Mapping[str, str]]:
    listed = one["rest"].split("), ")[0]
    return [around[name] for name in OPERAND.findall(listed) if name in around]


def _plain_bytes(one: Mapping[str, str], around: Instructions) -> int:
    if one["kind"] in (*_CONTAINERS, "parameter", "constant", "tuple", "get-tuple-element", "bitcast"):
        return 0
    operands, result = _operands(one, around), array_bytes(one["type"])
    if one["kind"] in _SLICES:
        return 2 * result
    if one["kind"] == "dynamic-update-slice" and len(operands) > 1:
        return 2 * array_bytes(operands[1]["type"])
    return result + sum(array_bytes(each["type"]) for each in operands)


def _fusion_bytes(one: Mapping[str, str], inside: Instructions) -> int:
    """What a fusion reads and writes: of an array that it only slices or writes a slice of, the slice."""
    users: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for inner in inside.values():
        for operand in _operands(inner, inside):
            users[_behind_views(operand, inside)["name"]].append(inner)
    total = 0
    for name, inner in inside.items():
        if inner["kind"] == "parameter":
            reads = [_read_bytes(inner, user, inside) for user in users[name] if user["kind"] not in _VIEWS]
            total += min(sum(reads), array_bytes(inner["type"]))
    updates = [_operands(inner, inside) for inner in inside.values() if inner["kind"] == "dynamic-update-slice"]
    if updates:
        return total + sum(array_bytes(operands[1]["type"]) for operands in updates)
    return total + array_bytes(one["type"])


def _read_bytes(array: Mapping[str, str], user: Mapping[str, str], inside: Instructions) -> int:
    """Bytes of an array that one instruction reads."""
    if user["kind"] in _SLICES:
        return array_bytes(user["type"])
    if user["kind"] == "dynamic-update-slice" and _behind_views(_operands(user, inside)[0], inside) is array:
        return 0
    return array_bytes(array["type"])


def _behind_views(one: Mapping[str, str], inside: Instructions) -> Mapping[str, str]:
    """The array that an instruction only shows in another shape; else itself."""
    while one["kind"] in _VIEWS and (operands := _operands(one, inside)):
        one = operands[0]
    return one


def _dot_flops(one: Mapping[str, str], around: Instructions) -> float:
    """Operations of a product, or of a library's call that says which axes it sums over; else 0."""
    contracted = _CONTRACTED.search(one["rest"])
    operands = _operands(one, around)
    if contracted is None or not operands or one["kind"] not in ("dot", "custom-call"):
        return 0.0
    axes = [int(axis) for axis in re.findall(r"\d+", contracted[1] or contracted[2] or "")]
    left, out = _SHAPE.search(operands[0]["type"]), _SHAPE.search(one["type"])
    if left is None or out is None:
        return 0.0
    sizes = [int(size) for size in left[1].split(",") if size]
    result = math.prod(int(size) for size in out[1].split(",") if size)
    return 2.0 * result * math.prod(sizes[axis] for axis in axes)


def kind_of(event: Event, work: Work | None) -> str:
    """The kind of an event: by the scope and the operations of its instruction, else by the kernel's name."""
    if work is not None and work.kind == "optimizer":
        return work.kind
    names = f"{event.name} {work.opcode if work else ''}"
    by_name = next((kind for kind, pattern in _BY_NAME if pattern.search(names)), "")
    if by_name in ("collectives", "attention"):
        return by_name
    return (work.kind if work is not None and work.kind else by_name) or "elementwise"


def profile_of(
    events: list[Event],
    work: Mapping[tuple[str, str], Work],
    *,
    steps: int,
    peak_flops: float,
    bandwidth: float,
    attention_flops: float = 0.0,
) -> Profile:
    """A step by kinds, from the events of `steps` of them.

    Args:
      peak_flops, bandwidth: Of the device, operations and bytes a second.
      attention_flops: Operations of a step's attention between visible pairs; 0 = those of its instructions.
    """
    grouped: dict[tuple[str, str, str], list[Event]] = defaultdict(list)
    for event in events:
        found = work.get((event.module, event.instruction))
        opcode = found.opcode if found is not None else event.name.split(".")[0]
        if opcode not in _CONTAINERS:
            kind = kind_of(event, found)
            grouped[kind, event.module, event.instruction or event.name].append(event)
    rows = {kind: Row() for kind in KINDS}
    losses = []
    for (kind, module, name), group in grouped.items():
        found, seconds = work.get((module, name)), sum(event.seconds for event in group) / steps
        floor = 0.0
        if found is not None:
            kernels: dict[str, int] = defaultdict(int)
            for event in group:
                kernels[event.name] += 1
            floor = max(found.flops / peak_flops, found.size / bandwidth) * max(kernels.values()) / steps
        row = rows[kind]
        row.events, row.seconds, row.floor = row.events + len(group) / steps, row.seconds + seconds, row.floor + floor
        losses.append((name, kind, seconds, floor))
    if attention_flops:
        rows["attention"].floor = attention_flops / peak_flops
    ends = [event for group in grouped.values() for event in group]
    whole = max(event.start + event.seconds for event in ends) - min(event.start for event in ends)
    rows["gaps"] = Row(0.0, max(0.0, whole - _busy(ends)) / steps)
    losses.sort(key=lambda loss: loss[3] - loss[2])
    return Profile(whole / steps, rows, losses[:10])


def _busy(events: Iterable[Event]) -> float:
    """Seconds in which at least one event ran."""
    total, until = 0.0, -math.inf
    for event in sorted(events, key=lambda event: event.start):
        end = event.start + event.seconds
        total += max(0.0, end - max(event.start, until))
        until = max(until, end)
    return total


def table(profile: Profile) -> str:
    """The profile as text: kinds, then the instructions that lose most."""
    lines = [f"{'kind':<12} {'events':>8} {'ms':>10} {'share':>7} {'floor, ms':>10} {'of floor':>9}"]
    for kind, row in profile.rows.items():
        share = row.seconds / profile.seconds if profile.seconds else 0.0
        floor = f"{row.floor * 1e3:>10.3f} {row.seconds / row.floor:>8.1f}x" if row.floor else f"{'-':>10} {'-':>9}"
        lines.append(f"{kind:<12} {row.events:>8.0f} {row.seconds * 1e3:>10.3f} {share:>7.1%} {floor}")
    lines.append(f"{'a step':<12} {'':>8} {profile.seconds * 1e3:>10.3f}")
    lines.append("")
    lines.append("most above its floor:")
    for name, kind, seconds, floor in profile.slowest:
        lines.append(f"  {seconds * 1e3:>10.3f} ms, floor {floor * 1e3:>8.3f}  {kind:<12} {name}")
    return "\n".join(lines)
