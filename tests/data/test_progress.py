"""A bar says what was done, how fast, and goes to standard error."""

from __future__ import annotations

import pytest

from sage_jax.data.progress import progress_bar


def test_the_bar_tells_numbers_and_rate_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as progress:
        task = progress.add_task("train", total=4)
        for _ in range(3):
            progress.advance(task)
        progress.update(task, completed=4)
    told = capsys.readouterr()
    assert "train" in told.err and "4/4" in told.err and told.out == ""
