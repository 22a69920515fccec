"""A report in a real browser: nothing that names, labels, questions or answers hold is run; skipped without one."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sage_jax.inspection.report import InspectionRow, write_report
from tests.inspection.test_report import pictures_of_every_sort

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: pages are not opened")
RUNS = "document.documentElement.setAttribute('data-ran','{}')"
ATTACKS = (
    "<script>" + RUNS + "</script>",
    '"><img src=x onerror="' + RUNS + '">',
    "'><svg onload='" + RUNS.replace("'", "&quot;") + "'>",
    "</script></style></title></textarea><script>" + RUNS + "</script>",
    '<iframe srcdoc="<script>parent.' + RUNS + '</script>"></iframe>',
    "javascript:" + RUNS,
    "{{ 7 * 191 }}{% raw %}</td></tr><script>" + RUNS + "</script>",
    "-->]]><base href=https://example.org/><meta http-equiv=refresh content=0;url=https://example.org/>",
)


def opened(page: Path) -> str:
    """The document as a browser has it after its scripts have run."""
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=3000"]
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [BROWSER, *options, profile, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def hostile_report(path: Path) -> None:
    rows = []
    for number, attack in enumerate(ATTACKS):
        text = attack.replace("{}", f"row {number}") if "{}" in attack else attack
        row = InspectionRow(
            image=f"parts/{text}.png",
            category=text,
            verdict="unsure",
            score=0.5,
            reason=text,
            follow_ups=((text, text),),
            reference=f"{text}.png",
            doubt=text,
            facts=(text,),
        )
        rows += [row, dataclasses.replace(row, verdict="unreadable", score=None, doubt="", error=text)]
    write_report(
        path,
        rows,
        title=ATTACKS[0].replace("{}", "title"),
        facts={ATTACKS[1].replace("{}", "label"): ATTACKS[3].replace("{}", "fact")},
        pictures=lambda position: pictures_of_every_sort(position % 3),
        threshold=0.5,
    )


def test_nothing_of_a_hostile_report_runs_and_its_own_script_does(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    hostile_report(page)
    found = opened(page)
    assert 'lang="en"' in found and f"{2 * len(ATTACKS)} of {2 * len(ATTACKS)} shown" in found  # by its script
    assert re.search(r"<html[^>]*data-ran", found) is None
    assert found.count("<tr") >= 2 * len(ATTACKS) and "1337" not in found
    assert "<iframe" not in found and "<base" not in found and 'http-equiv="refresh' not in found


def test_its_policy_stops_what_got_in_all_the_same(tmp_path: Path) -> None:
    """As if something were not escaped; without the policy the same page runs it, so that this test can fail."""
    page = tmp_path / "report.html"
    hostile_report(page)
    content = page.read_text(encoding="utf-8")
    injected = "".join(attack.replace("{}", "injected") for attack in ATTACKS[:2])
    page.write_text(content.replace("</body>", f"{injected}</body>"), encoding="utf-8")
    assert re.search(r"<html[^>]*data-ran", opened(page)) is None
    bare = re.sub(r"<meta[^>]*Content-Security-Policy[^>]*>", "", page.read_text(encoding="utf-8"))
    assert bare != page.read_text(encoding="utf-8")
    page.write_text(bare, encoding="utf-8")
    assert re.search(r"<html[^>]*data-ran", opened(page))
