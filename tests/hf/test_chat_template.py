"""Chat templates: what transformers makes of them, and an end at once for those that would use the machine up."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from sage_jax.hf.chat_template import CPU_SECONDS, MEMORY, PROBE, render_probe
from tests.support.tiny_run import ROOT
from tests.support.tiny_tokenizers import CHAT_TEMPLATE, qwen_tokenizer

LONG = "{% set x = 'a' * 10**5 %}"
TAKES = f"it takes more than {MEMORY >> 20} MB of memory"
GIVES = "it gives more than 65,536 characters"
GREEDY = {
    "repeated text": ("{{ 'a' * 10**9 }}", TAKES),
    "repeated list": ("{{ [1] * 10**10 }}", TAKES),
    "long range": ("{% for i in range(10**9) %}{% endfor %}", r"Range too big\..*"),
    "nested joins": (LONG + "{{ ([([x] * 999) | join] * 999) | join }}", TAKES),
    "doubled by ~": (
        "{% set n = namespace(x='aaaa') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        TAKES,
    ),
    "doubled list": (
        "{% set n = namespace(x=[1]) %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
        TAKES,
    ),
    "growing output": ("{% for i in range(90000) %}" + LONG + "{{ x }}{% endfor %}", TAKES),
    "center": (LONG + "{{ x | center(10**10) }}", TAKES),
    "indent": (LONG + "{{ x | replace('a', 'b\n') | indent(10**6) }}", TAKES),
    "replace": (LONG + "{{ x | replace('a', x) }}", TAKES),
    "batch": (LONG + "{{ x | batch(10**10, 'a') | list }}", TAKES),
    "format": ("{{ '%1000000000d' | format(1) }}", TAKES),
    "str.format": ("{{ '{:>1000000000}'.format(1) }}", TAKES),
    "ljust": ("{{ 'a'.ljust(10**10) }}", TAKES),
    "long output": (LONG + "{{ x }}", GIVES),
    "long fault": ("{{ raise_exception('a' * 10**6) }}", "a{300}"),
}


def test_it_is_rendered_as_transformers_renders_it() -> None:
    tokenizer = qwen_tokenizer()
    for template in (CHAT_TEMPLATE, "{{ eos_token }}{% for m in messages %}{{ m.role | tojson }}é☃{% endfor %}"):
        expected = tokenizer.apply_chat_template(
            PROBE, chat_template=template, tokenize=False, add_generation_prompt=True
        )
        assert render_probe(template, tokenizer.special_tokens_map) == expected


def test_a_template_that_takes_too_much_ends_at_once() -> None:
    program = "\n".join(
        (
            "import json, re, sys, time",
            "import transformers.utils.chat_template_utils",
            "from sage_jax.hf.chat_template import limit, render_here",
            "limit()",
            "told = {}",
            "for name, template in json.load(sys.stdin).items():",
            "    began = time.process_time()",
            "    told[name] = [render_here(template, {}), time.process_time() - began]",
            "peak = re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())",
            "print(json.dumps([told, int(peak[1]) << 10]))",
        )
    )
    asked = json.dumps({name: template for name, (template, _) in GREEDY.items()})
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, check=True, cwd=ROOT)
    told, memory = json.loads(ended.stdout)
    for name, (_, said) in GREEDY.items():
        found, seconds = told[name]
        assert re.fullmatch(said, found["fault"]) and seconds < 2, name
    assert memory < MEMORY + (200 << 20)


def test_the_limits_hold_for_what_a_checkpoint_brings() -> None:
    with pytest.raises(ValueError, match=f"^{TAKES}$"):
        render_probe("{{ 'a' * 10**10 }}", {})
    with pytest.raises(ValueError, match=f"^it takes longer than {CPU_SECONDS} s$"):
        render_probe("{{ 7 ** (10 ** 9) }}", {})
    with pytest.raises(ValueError, match="^it has more than 65,536 characters$"):
        render_probe("x" * 70_000, {})
