"""Where a step's time goes: a profiler's trace as a table by kinds of work, each beside its floor.

    python -m bench.edpo_step --size 8b --lora 16 --remat full --profile traces/edpo
    python -m bench.profile traces/edpo

The first command measures as always, then traces two more steps into the folder and prints the table. The second one
prints the table of such a folder again, on any machine. `bench.sfe_step`, `bench.forward` and `bench.generate` take
`--profile` too. Kinds: products, attention, elementwise, copies, optimizer, collectives, and gaps between them.

On a CPU times of operations that run beside each other add up, and a step's share can be above 100 %.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import jax

from bench.trace import Profile, TraceError, profile_of, read_events, read_work, table

STEPS: Final = 2
"""Steps of a trace."""

_ABOUT: Final = "about.json"
_PROGRAMS: Final = "programs"


@dataclasses.dataclass(frozen=True)
class About:
    """What a trace does not tell of itself.

    Attributes:
      steps: Steps that were traced.
      peak_flops, bandwidth: Of the device, operations and bytes a second.
      attention_flops: Operations of a step's attention between visible pairs.
      device: Its name.
    """

    steps: int
    peak_flops: float
    bandwidth: float
    attention_flops: float
    device: str


def record(step: Callable[[int], Any], folder: Path, about: About) -> Profile:
    """Traces `step(0)`, `step(1)`, .. which have run before, and keeps trace, programs and `about` in a folder."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        for number in range(about.steps):
            jax.block_until_ready(step(number))
    programs = folder / _PROGRAMS
    programs.mkdir(exist_ok=True)
    for old in programs.iterdir():
        old.unlink()
    client: Any = jax.devices()[0].client
    texts = [module.to_string() for one in client.live_executables() for module in one.hlo_modules()]
    for number, text in enumerate(texts):
        (programs / f"{number}.hlo.txt").write_text(text, encoding="utf-8")
    (folder / _ABOUT).write_text(json.dumps(dataclasses.asdict(about)), encoding="utf-8")
    return read_folder(folder)


def read_folder(folder: Path) -> Profile:
    """The profile of a folder that `record` wrote.

    Raises:
      TraceError: It is not one.
    """
    try:
        about = About(**json.loads((folder / _ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise TraceError(f"{folder}: no {_ABOUT} in it; give a folder that --profile wrote") from None
    texts = [path.read_text(encoding="utf-8") for path in sorted((folder / _PROGRAMS).glob("*.hlo.txt"))]
    events = read_events(folder)
    return profile_of(
        events,
        read_work(texts, events),
        steps=about.steps,
        peak_flops=about.peak_flops,
        bandwidth=about.bandwidth,
        attention_flops=about.attention_flops,
    )


def figures(profile: Profile) -> dict[str, Any]:
    """The profile for a line of JSON: milliseconds and floors of a step by kind."""
    return {
        "profiled_seconds": round(profile.seconds, 5),
        "kinds_ms": {kind: round(row.seconds * 1e3, 3) for kind, row in profile.rows.items()},
        "floors_ms": {kind: round(row.floor * 1e3, 3) for kind, row in profile.rows.items() if row.floor},
    }


def main() -> None:
    """Prints the table of a folder."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("folder", type=Path, help="folder that --profile wrote")
    try:
        print(table(read_folder(found.parse_args().folder)))
    except TraceError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
