"""Communication of a program that the compiler has partitioned over devices, read from its HLO text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

COLLECTIVES: Final = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<kind>[a-z][a-z\-]*)\((?P<rest>.*)$")
OPERAND = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_LOOP = re.compile(r"condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")
_IOTA_GROUPS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_MESH_GROUPS = re.compile(r"replica_groups=mesh\[(?P<sizes>[^\]]*)\] \{(?P<axes>[^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: One of COLLECTIVES.
      size: Bytes on one device of what is gathered, reduced or moved, whole: of an all-gather its result, of a
        reduce-scatter its operand.
      group: Devices that take part in it together.
      runs: How often the program runs it.
    """

    kind: str
    size: int
    group: int
    runs: int

    @property
    def moved(self) -> float:
        """Bytes that a device sends in all runs, by the ring algorithm.

        Of a whole of W bytes on n devices: all-gather, reduce-scatter and all-to-all (n - 1) / n W, all-reduce twice
        that, permute W.
        """
        others = (self.group - 1) / self.group
        share = {"all-reduce": 2 * others, "collective-permute": 1.0}.get(self.kind, others)
        return share * self.size * self.runs


def collectives(text: str, num_devices: int) -> list[Collective]:
    """Every collective among several devices, those in loops with the number of their rounds.

    An all-reduce of which each device only takes its slice is a reduce-scatter, as compilers for GPU and TPU make it.

    Args:
      text: The program after partitioning and before a backend's own passes.
      num_devices: Devices of the program, the group of collectives that name none.
    """
    computations, entry = computations_of(text)
    runs = _runs(computations, entry)
    found = []
    for name, instructions in computations.items():
        users: dict[str, list[str]] = defaultdict(list)
        for one in instructions.values():
            for operand in OPERAND.findall(one["rest"].split("metadata=")[0]):
                users[operand].append(one["kind"])
        for label, one in instructions.items():
            group = _group(one["rest"], num_devices)
            if one["kind"] in COLLECTIVES and runs[name] and group > 1:
                sliced = one["kind"] == "all-reduce" and set(users[label]) == {"dynamic-slice"}
                kind = "reduce-scatter" if sliced else one["kind"]
                whole = array_bytes(one["type"]) * (group if one["kind"] == "reduce-scatter" else 1)
                found.append(Collective(kind, whole, group, runs[name]))
    return found


def moved_by_kind(found: list[Collective]) -> dict[str, int]:
    """Bytes that a device sends, by kind; kinds that there are none of are left out."""
    total: dict[str, float] = defaultdict(float)
    for one in found:
        total[one.kind] += one.moved
    return {kind: round(total[kind]) for kind in COLLECTIVES if kind in total}


def array_bytes(shapes: str) -> int:
    """Bytes of the arrays in an HLO type, such as `(f32[2,3]{1,0}, pred[])`."""
    total = 0
    for name, bits, sizes in _ARRAY.findall(shapes):
        elements = math.prod(int(size) for size in sizes.split(",") if size)
        total += -(-elements * (8 if name == "pred" else int(bits)) // 8)
    return total


Instructions = dict[str, dict[str, str]]
"""Instructions of a computation by name: `name`, `type`, `kind` and the `rest` of the line behind the bracket."""


def computations_of(text: str) -> tuple[dict[str, Instructions], str]:
    """Instructions of each computation by name, and the computation that the program starts with."""
    found: dict[str, Instructions] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = found.setdefault(header["name"], {})
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (instruction := _INSTRUCTION.match(line)):
            current[instruction["name"]] = instruction.groupdict()
    return found, entry


def _runs(computations: Mapping[str, Instructions], entry: str) -> dict[str, int]:
    """How often each computation runs; a loop of unknown length counts once, each branch of a choice too."""
    runs = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for called, rounds in _calls(computations, name):
            visit(called, times * rounds)

    visit(entry, 1)
    return runs


def _calls(computations: Mapping[str, Instructions], name: str) -> Iterator[tuple[str, int]]:
    for one in computations[name].values():
        rest = one["rest"]
        loop = _LOOP.search(rest) if one["kind"] == "while" else None
        if loop:
            yield loop["body"], _rounds(computations[loop["condition"]])
        for called in CALLED.findall(rest):
            yield called, 1
        for branches in _BRANCHES.findall(rest):
            for called in branches.split(","):
                yield called.strip().lstrip("%"), 1


def _rounds(condition: Instructions) -> int:
    """Rounds of a counted loop from 0, as `jax.lax.scan` makes them: the constant that its counter stays below."""
    for one in condition.values():
        if one["kind"] == "compare" and "direction=LT" in one["rest"]:
            limit = condition.get(OPERAND.findall(one["rest"])[1])
            if limit and limit["kind"] == "constant":
                return int(limit["rest"].split(")")[0])
    return 1


def _group(attributes: str, num_devices: int) -> int:
    named = _MESH_GROUPS.search(attributes)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named["sizes"]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named["axes"]))
    iota = _IOTA_GROUPS.search(attributes)
    if iota:
        return int(iota[1])
    listed = _LISTED_GROUPS.search(attributes)
    if listed:
        return len(listed[1].split(","))
    return num_devices
