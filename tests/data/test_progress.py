"""A bar says what was done, how fast, and goes to standard error."""

from __future__ import annotations

import pytest
from rich.console import Console

from sage_jax.data.progress import progress_bar


def test_the_bar_tells_numbers_and_rate_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        task = progress.add_task("train", total=4)
        for _ in range(3):
            progress.advance(task)
        progress.update(task, completed=4)
    told = capsys.readouterr()
    assert "train" in told.err and "4/4" in told.err and told.out == ""


def test_the_bar_shows_records_a_second() -> None:
    now = iter(range(100))
    with progress_bar() as bar:
        bar.get_time = lambda: float(next(now))
        task = bar.add_task("train records", total=100)
        for _ in range(4):
            bar.advance(task, 50 / 4)
        console = Console(width=120)
        with console.capture() as shown:
            console.print(bar.get_renderable())
    assert "12.5/s" in shown.get() and "50/100" in shown.get()
