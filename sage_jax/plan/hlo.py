"""Communication of a compiled program, read from its HLO text."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

COLLECTIVES: Final = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_COLLECTIVE = re.compile(rf" = (?P<type>.*?) (?P<kind>{'|'.join(COLLECTIVES)})\((?P<operands>[^)]*)\)(?P<rest>.*)$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_LIMIT = re.compile(r"%?([\w.\-]+) = s32\[\]\S* constant\((\d+)\)")
_BELOW = re.compile(r"compare\(%?[\w.\-]+, %?(?P<limit>[\w.\-]+)\), direction=LT")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)[a-z0-9]*)\[([\d,]*)\]")
_IOTA_GROUPS = re.compile(r"replica_groups=\[(\d+),(\d+)\]")
_LISTED_GROUPS = re.compile(r"replica_groups=\{\{([\d,]*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: One of COLLECTIVES.
      size: Bytes of its result on one device.
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

        all-gather of a whole of W bytes: (n - 1) / n W; reduce-scatter of W: the same; all-reduce: both;
        all-to-all: all but its own part; permute: everything.
        """
        others = (self.group - 1) / self.group
        share = {
            "all-gather": others,
            "reduce-scatter": others * self.group,
            "all-reduce": 2 * others,
            "all-to-all": others,
            "collective-permute": 1.0,
        }[self.kind]
        return share * self.size * self.runs


def collectives(text: str, num_devices: int) -> list[Collective]:
    """Every collective of a compiled module, those in loops with the number of their rounds.

    Args:
      text: The compiled module as text, with synchronous collectives as on CPU.
      num_devices: Devices of the program, the group of collectives that name none.
    """
    computations, entry = _computations(text)
    runs = _runs(computations, entry)
    return [
        Collective(match["kind"], array_bytes(match["type"]), _group(match["rest"], num_devices), runs[name])
        for name, lines in computations.items()
        if runs[name]
        for line in lines
        if (match := _COLLECTIVE.search(line))
    ]


def moved_by_kind(found: list[Collective]) -> dict[str, float]:
    """Bytes that a device sends, by kind; kinds that there are none of are left out."""
    total: dict[str, float] = defaultdict(float)
    for one in found:
        if one.group > 1:
            total[one.kind] += one.moved
    return {kind: total[kind] for kind in COLLECTIVES if kind in total}


def array_bytes(shapes: str) -> int:
    """Bytes of the arrays in an HLO type, such as `(f32[2,3]{1,0}, pred[])`."""
    total = 0
    for name, bits, sizes in _ARRAY.findall(shapes):
        elements = 1
        for size in filter(None, sizes.split(",")):
            elements *= int(size)
        total += -(-elements * (8 if name == "pred" else int(bits)) // 8)
    return total


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Instructions of each computation, and the name of the one that the program starts with."""
    found: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            current = found.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            current.append(line)
    return found, entry


def _runs(computations: Mapping[str, list[str]], entry: str) -> dict[str, int]:
    """How often each computation runs; a loop of unknown length counts once, each branch of a choice too."""
    runs = dict.fromkeys(computations, 0)

    def visit(name: str, times: int) -> None:
        runs[name] += times
        for called, rounds in _calls(computations[name]):
            visit(called, times * rounds)

    visit(entry, 1)
    return runs


def _calls(lines: list[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        trips = _TRIPS.search(line)
        rounds = int(trips[1]) if trips and " while(" in line else 1
        for name in _CALLED.findall(line):
            yield name, rounds
        for branches in _BRANCHES.findall(line):
            for name in branches.split(","):
                yield name.strip().lstrip("%"), 1


def _group(attributes: str, num_devices: int) -> int:
    iota = _IOTA_GROUPS.search(attributes)
    if iota:
        return int(iota[2])
    listed = _LISTED_GROUPS.search(attributes)
    if listed:
        return len(listed[1].split(","))
    return 2 if "source_target_pairs" in attributes else num_devices
