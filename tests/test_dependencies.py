"""Known vulnerabilities of the pinned packages, where pip-audit is installed and its index answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"


@pytest.mark.skipif(importlib.util.find_spec("pip_audit") is None, reason="pip-audit is not installed: no audit")
def test_no_pinned_package_has_a_known_vulnerability() -> None:
    options = ("--requirement", str(REQUIREMENTS), "--no-deps", "--disable-pip", "--format", "json", "--timeout", "10")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the index of vulnerabilities does not answer")
    if not ended.stdout.startswith("{"):
        pytest.skip(f"no audit: {ended.stderr.strip().splitlines()[-1:]}")
    found = json.loads(ended.stdout)["dependencies"]
    audited = [each for each in found if "skip_reason" not in each]
    if not audited:
        pytest.skip(f"no audit: {found[0]['skip_reason']}")
    assert {each["name"]: [bug["id"] for bug in each["vulns"]] for each in audited if each["vulns"]} == {}
