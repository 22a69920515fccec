"""The whole path in a browser: open, correct, learn, and see the new verdict; with a tiny model, learnt for good."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
from pathlib import Path

from selenium.webdriver.common.keys import Keys

from sage_jax.corrections.store import store_of
from sage_jax.data import store as stored
from sage_jax.stages.open_model import config_of
from sage_jax.stages.run import Run
from sage_jax.stages.stages import run_stages
from sage_jax.stages.versions import use_version
from tests.review.test_page import Page
from tests.stages.test_watching import OPTIONS, program
from tests.support.reviewed import chromium, severe
from tests.support.tiny_run import TinyRun
from tests.support.watched import rows_of

NUMBER = 6


def fill(run_dir: Path, images: Path) -> dict[str, bool]:
    """Puts a few of the run's own parts into a folder; which of them are defective, by name."""
    split = stored.open_split(Run(config_of(run_dir)).prepared, "train")
    records = {split[index].image_id: split[index] for index in range(len(split))}
    truth = {}
    for number, record in enumerate(list(records.values())[:NUMBER]):
        (images / f"{number}.png").write_bytes(record.test_image)
        truth[f"{number}.png"] = bool(record.anomalous)
    (images.parent / "good.png").write_bytes(next(iter(records.values())).reference_image or b"")
    return truth


def test_a_person_corrects_and_the_model_that_learns_answers_otherwise(tiny_run: TinyRun, tmp_path: Path) -> None:
    run_dir, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(tiny_run.run_dir, run_dir)
    images.mkdir()
    truth = fill(run_dir, images)
    command = ("serve", "--model", str(run_dir), "--port", "0", "--references", "good.png", "--watch.folder", "images")
    with contextlib.ExitStack() as held:
        browser = held.enter_context(chromium())
        service = held.enter_context(program(tmp_path, *command, *OPTIONS)).ready()
        service.until(lambda: len(rows_of(run_dir / "watch")) == NUMBER)
        before = {Path(row["image"]).name: row["score"] for row in rows_of(run_dir / "watch")}
        (address,) = re.findall(r"review: (http\S+)/review", service.said)
        page = Page(browser, address)
        page.open()
        for left in range(NUMBER, 0, -1):
            page.until(lambda left=left: page.text("#pending") == str(left))
            name, verdict = page.text("#item-name"), page.text("#item-verdict").lower()
            if verdict == ("defective" if truth[name] else "good"):
                page.save("r")
            else:
                page.press("w")
                page.save(Keys.ENTER)
            page.until(lambda left=left: page.text("#pending") == (str(left - 1)))
        assert page.find("#queue-empty").is_displayed()
        assert severe(browser) == []
        assert service.stop() == 0
    corrected = store_of(run_dir).corrected()
    said = {each.name: each.correction and each.correction.correction for each in corrected}
    assert {name: correction and correction.verdict for name, correction in said.items()} == {
        name: "defective" if defective else "good" for name, defective in truth.items()
    }

    config = config_of(run_dir)
    lesson = dataclasses.replace(config.learn, steps=60, warmup_steps=1, batch_size=8, replay=0.0, least=NUMBER)
    lesson = dataclasses.replace(lesson, peak_learning_rate=1e-2, freeze=())
    run_stages(dataclasses.replace(config, learn=lesson, stages="learn"))
    use_version(run_dir, 1)

    with contextlib.ExitStack() as held:
        browser = held.enter_context(chromium())
        more = ("--watch.again", "--watch.output", "after")
        service = held.enter_context(program(tmp_path, *command, *more, *OPTIONS)).ready()
        service.until(lambda: len(rows_of(tmp_path / "after")) == NUMBER)
        after = {Path(row["image"]).name: row["score"] for row in rows_of(tmp_path / "after")}
        (address,) = re.findall(r"review: (http\S+)/review", service.said)
        page = Page(browser, address)
        page.open("queue")
        page.until(lambda: page.text("#pending") == str(NUMBER))
        shown = float(page.text("#item-score").removeprefix("Score "))
        assert abs(shown - after[page.text("#item-name")]) < 1e-3
        page.open("versions")
        cards = page.until(lambda: page.texts("#versions article"))
        assert "Version 1" in cards[0] and "Answers here" in cards[0] and "6 corrected images" not in cards[1]
        assert severe(browser) == []
        assert service.stop() == 0
    apart = [score for name, score in after.items() if truth[name]], [s for n, s in after.items() if not truth[n]]
    gain = sum(apart[0]) / len(apart[0]) - sum(apart[1]) / len(apart[1])
    first = [before[name] for name in truth if truth[name]], [before[name] for name in truth if not truth[name]]
    assert gain > sum(first[0]) / len(first[0]) - sum(first[1]) / len(first[1])
    assert os.path.exists(run_dir / "versions" / "001" / "learned.json")
