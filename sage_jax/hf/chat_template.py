"""A checkpoint's chat template at work: rendered by transformers' sandbox in a process of its own, which has limits.

The sandbox keeps a template from the machine, not from using it up: `'a' * 10**12` is one operation, and so is
`'{:>999999999999}'.format(1)`. A process that asks for more memory or time than it was given is refused or ended by
the system, whatever the operation.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

MOST_CHARACTERS: Final = 1 << 16
"""Of a chat template, and of what it may give."""
CPU_SECONDS: Final = 2
MEMORY: Final = 256 << 20
"""Bytes beside what Python and transformers take."""
_SECONDS: Final = 300.0
"""For the whole process, its start included, on a busy machine."""
_MOST_SAID: Final = 300

PROBE: Final[list[dict[str, Any]]] = [
    {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "ask 1"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "say 1"}]},
    {"role": "user", "content": [{"type": "text", "text": "ask 2"}]},
]
"""The conversation that is rendered; a prompt for the second answer follows."""


def render_probe(template: str, special_tokens: Mapping[str, str]) -> str:
    """What a template makes of `PROBE`; each template is rendered once.

    Args:
      special_tokens: Texts that the template may use, such as `eos_token`, by name.

    Raises:
      ValueError: It is no template, it fails, or it takes too much.
    """
    if len(template) > MOST_CHARACTERS:
        raise ValueError(f"it has more than {MOST_CHARACTERS:,} characters")
    return _rendered(template, tuple(special_tokens.items()))


@functools.lru_cache
def _rendered(template: str, special_tokens: tuple[tuple[str, str], ...]) -> str:
    asked = json.dumps({"template": template, "special_tokens": dict(special_tokens)})
    command = [sys.executable, "-P", "-m", "sage_jax.hf.chat_template"]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # what this process imports from, set up as it is
    try:
        ended = subprocess.run(
            command,
            input=asked,
            env=found,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it has no end after {_SECONDS:g} s") from None
    if ended.returncode == -signal.SIGXCPU:
        raise ValueError(f"it takes longer than {CPU_SECONDS} s")
    if ended.returncode:
        raise ValueError(f"the process that renders it ended with status {ended.returncode}")
    told = json.loads(ended.stdout)
    if "fault" in told:
        raise ValueError(told["fault"])
    return told["rendered"]


def limit() -> None:
    """Sets this process's limits, from here on, once and for all."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    pages = Path("/proc/self/statm")
    if pages.exists():  # Linux; other systems do not keep such a limit
        most = int(pages.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def render_here(template: str, special_tokens: Mapping[str, str]) -> dict[str, str]:
    """What a template makes of `PROBE` in this process, as `rendered`, or why it makes nothing, as `fault`."""
    from transformers.utils.chat_template_utils import render_jinja_template

    names: dict[str, Any] = dict(special_tokens)
    try:
        texts, _ = render_jinja_template([PROBE], chat_template=template, add_generation_prompt=True, **names)
    except MemoryError:
        return {"fault": f"it takes more than {MEMORY >> 20} MB of memory"}
    except Exception as error:  # a template raises what it likes
        return {"fault": (str(error) or type(error).__name__)[:_MOST_SAID]}
    if len(texts[0]) > MOST_CHARACTERS:
        return {"fault": f"it gives more than {MOST_CHARACTERS:,} characters"}
    return {"rendered": texts[0]}


def _main() -> None:
    asked = json.load(sys.stdin)
    importlib.import_module("transformers.utils.chat_template_utils")  # before the limits
    limit()
    print(json.dumps(render_here(**asked)))


if __name__ == "__main__":
    _main()
