"""Mutated inputs for every reader: each is read, or refused in one message; nothing else may come of it."""

from __future__ import annotations

import hashlib
import random
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sage_jax.errors import UserError
from tests.campaign.mutate import mutate
from tests.campaign.report import Report, chosen
from tests.campaign.targets import Target, targets

_LONGEST: Final = 10.0
"""Seconds that an input of a few kilobytes may take."""
_MOST_MESSAGE: Final = 20_000
"""Characters of a message."""


def fuzz_inputs(
    folder: Path, number: int, seed: int, *, keep: Path | None, only: str, say: Callable[[str], None]
) -> Report:
    """Mutates inputs of all kinds in turn.

    Args:
      keep: Folder for inputs that failed; None = nowhere.
      only: One kind of input; "" = all.
    """
    report = Report()
    found = targets(folder / "inputs")
    names = chosen(only, dict.fromkeys(target.name for target in found))
    tried = [target for target in found if target.name in names]
    say(f"fuzz: {number} mutants of {len(tried)} kinds of input, seed {seed}")
    for turn in range(number):
        target = tried[turn % len(tried)]
        rng = random.Random(f"{seed} {turn}")
        mutant, failed = mutate(target.content, rng), len(report.failures)
        outcome, about = try_input(target, mutant)
        target.path.write_bytes(target.content)  # other kinds are read beside it
        report.add(target.name, outcome, f"mutant {turn}: {about}")
        if keep is not None and len(report.failures) > failed:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{target.name.replace(' ', '_')}_{turn}").write_bytes(mutant)
        if turn % 2000 == 1999:
            say(f"  {turn + 1} done, {len(report.failures)} failed")
    return report


def try_input(target: Target, content: bytes) -> tuple[str, str]:
    """How the reading of an input ended, and what was said."""
    target.path.write_bytes(content)
    started = time.monotonic()
    try:
        value = target.read(target.path)
    except UserError as error:
        if len(str(error)) > _MOST_MESSAGE or any(ord(letter) < 32 and letter != "\n" for letter in str(error)):
            return "unshown", hashlib.sha256(str(error).encode("utf-8", "replace")).hexdigest()
        return "refused", str(error).splitlines()[0][:200]
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {str(error)[:150]!r}"
        return "traceback", f"{said} at {Path(where.filename).name}:{where.lineno}"
    if time.monotonic() - started > _LONGEST:
        return "slow", f"{time.monotonic() - started:.1f} s"
    if target.sealed and content != target.content and value != target.value:
        return "silent", "another value was read than was written"
    return "read", ""
