"""What other libraries print at import, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | variables
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)


def test_nothing_is_printed_when_the_libraries_are_imported_and_flags_are_parsed() -> None:
    code = (
        "from sage_jax.process.libraries import settle_libraries as s; s(); import transformers, grain\n"
        "from absl import flags; assert flags.FLAGS.is_parsed(); s()"
    )
    ended = python(code)
    assert (ended.stdout, ended.stderr) == ("", "")


def test_what_the_user_has_set_stays() -> None:
    code = (
        "from sage_jax.process.libraries import quieten_libraries as q; q(); import os\n"
        "print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['TRANSFORMERS_NO_ADVISORY_WARNINGS'])"
    )
    assert python(code, TF_CPP_MIN_LOG_LEVEL="0").stdout.split() == ["0", "1"]


def test_what_orbax_logs_and_raises_afterwards_is_not_shown_twice() -> None:
    code = (
        "from sage_jax.process.libraries import settle_libraries as s; s(); import sys\n"
        "from absl import logging\n"
        "source = 'def log(m):\\n try:\\n  raise OSError(m)\\n except OSError:\\n  logging.error(m, exc_info=True)'\n"
        "for name in ('/site/orbax/saver.py', '/site/other.py'):\n"
        "    scope = {'logging': logging}; exec(compile(source, name, 'exec'), scope); scope['log'](name)"
    )
    said = python(code).stderr
    assert "/site/other.py" in said and said.count("Traceback") == 1 and "orbax" not in said


def test_writes_that_fail_beside_the_one_that_is_raised_are_not_told_by_asyncio() -> None:
    code = (
        "from sage_jax.process.libraries import settle_libraries as s; s(); import asyncio, gc\n"
        "source = 'async def write(n):\\n raise OSError(n)'\n"
        "async def save(file):\n"
        "    scope = {'__name__': 'x'}; exec(compile(source, file, 'exec'), scope)\n"
        "    tasks = [asyncio.ensure_future(scope['write'](n)) for n in range(3)]\n"
        "    await asyncio.wait(tasks); await tasks[0]\n"
        "for file in ('/site/orbax/saver.py', '/site/other.py'):\n"
        "    try: asyncio.run(save(file))\n"
        "    except OSError: print('raised')\n"
        "gc.collect()"
    )
    ended = python(code)
    assert ended.stdout.split() == ["raised", "raised"]
    assert "other.py" in ended.stderr and "orbax" not in ended.stderr


def test_what_comes_back_to_a_loop_that_has_ended_is_not_told() -> None:
    code = (
        "from sage_jax.process.libraries import quieten_libraries as q; q(); q()\n"
        "class Late:\n"
        "  def __init__(self, message): self.message = message\n"
        "  def __del__(self): raise RuntimeError(self.message)\n"
        "Late('Event loop is closed'); Late('something else')"
    )
    said = python(code).stderr
    assert "something else" in said and "Event loop" not in said


def test_a_library_that_looks_for_torch_is_imported_without_it_and_torch_can_be_imported_afterwards() -> None:
    code = (
        "import sys; from sage_jax.process.libraries import without_torch as w\n"
        "with w():\n"
        "    import tensorboardX\n"
        "print('torch' in sys.modules); sys.modules['torch'] = sys\n"
        "with w():\n"
        "    import torch; assert torch is sys\n"
        "print(sys.modules['torch'] is sys)"
    )
    assert python(code).stdout.split() == ["False", "True"]


def test_the_stages_import_nothing_heavy_that_only_some_of_them_need() -> None:
    code = (
        "import sys, sage_jax.stages.stages\n"
        "print(*(name for name in ('torch', 'sklearn', 'scipy.stats', 'matplotlib.figure', 'tensorboardX')"
        " if name in sys.modules))"
    )
    assert python(code).stdout.split() == []


def test_a_loop_that_lacked_a_file_handle_is_told_once() -> None:
    code = (
        "from sage_jax.process.libraries import settle_libraries as s; s()\n"
        "import asyncio, gc, os, resource\n"
        "most = max(map(int, os.listdir('/proc/self/fd'))) + 1\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.dup(0))\n"
        "except OSError: pass\n"
        "try: asyncio.new_event_loop()\n"
        "except OSError as error: print(error.errno)\n"
        "gc.collect()"
    )
    ended = python(code)
    assert (ended.stdout, ended.stderr) == ("24\n", "")
