"""Watching a folder: new, half-written, moved, duplicate and deleted files; each result once, after a kill too."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from sage_jax.corrections.maps import kept_map
from tests.support.endpoint_server import Served, served
from tests.support.forked import Forked
from tests.support.tiny_run import PROGRAM, ROOT
from tests.support.watched import MODEL, Bench, picture, rows_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_new_images_are_inspected_once_and_in_the_order_in_which_they_came(bench: Bench) -> None:
    for number in (3, 1, 2):
        path = bench.add(f"{number}.png", picture(number))
        os.utime(path, (100 - number, 100 - number))
    bench.add("notes.txt", b"no image")
    bench.add(".hidden.png", picture(9))
    bench.look()
    bench.look()
    rows = bench.rows()
    assert [Path(row["image"]).name for row in rows] == ["3.png", "2.png", "1.png"]
    assert [row["number"] for row in rows] == [1, 2, 3]
    assert {row["category"] for row in rows} == {"cap"} and all(row["verdict"] in ("good", "defective") for row in rows)
    assert rows[0].keys() >= {"score", "reason", "boxes", "reference", "sha256", "time", "model", "duplicate_of"}


def test_an_image_waits_until_nobody_writes_to_it_any_more(bench: Bench) -> None:
    whole = picture(1, px=64)
    for length in (100, 2000, 5000):
        bench.add("a.png", whole[:length])
        bench.watcher.step()
        bench.now += 0.5
    assert bench.service.requests == []
    bench.add("a.png", whole)
    bench.look()
    (row,) = bench.rows()
    assert row["verdict"] in ("good", "defective") and bench.service.requests[0].image == whole


def test_half_an_image_is_tried_again_and_called_unreadable_when_patience_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, patience_seconds=10.0)
    whole = picture(1, px=64)
    bench.add("late.png", whole[:3000])
    bench.add("never.png", picture(2, px=64)[:3000])
    bench.look()
    assert bench.rows() == []
    bench.add("late.png", whole)
    bench.look()
    assert [Path(row["image"]).name for row in bench.rows()] == ["late.png"]
    bench.now += 30.0
    bench.look()
    row = bench.rows()[-1]
    assert (row["verdict"], row["score"]) == ("unreadable", None) and "never.png" in row["error"]
    bench.now += 100.0
    bench.look()
    assert len(bench.rows()) == 2
    bench.add("never.png", picture(2, px=64))
    bench.look()
    assert bench.rows()[-1]["verdict"] != "unreadable" and len(bench.rows()) == 3


def test_a_duplicate_gets_the_verdict_of_the_first_and_is_not_inspected(bench: Bench) -> None:
    first = bench.add("first.png", picture(1))
    bench.look()
    bench.add("second.png", picture(1))
    bench.look()
    one, other = bench.rows()
    assert len(bench.service.requests) == 1 and other["duplicate_of"] == str(first) and one["duplicate_of"] is None
    assert Path(other["image"]).name == "second.png"
    assert (other["verdict"], other["score"], other["reason"]) == (one["verdict"], one["score"], one["reason"])
    assert any("same content" in line for line in bench.said)
    assert bench.store.counts().inspections == 1


def test_duplicates_that_come_together_are_told_as_such(bench: Bench) -> None:
    for name in "abc":
        bench.add(f"{name}.png", picture(1))
    bench.look()
    assert len(bench.service.requests) == 1
    assert sorted(row["duplicate_of"] is None for row in bench.rows()) == [False, False, True]


def test_a_duplicate_is_inspected_where_it_is_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, again=True)
    bench.add("first.png", picture(1))
    bench.look()
    bench.add("second.png", picture(1))
    bench.look()
    assert len(bench.service.requests) == 2 and [row["duplicate_of"] for row in bench.rows()] == [None, None]


def test_a_moved_file_is_known_and_gets_no_line(bench: Bench) -> None:
    path = bench.add("in.png", picture(1))
    bench.look()
    target = bench.images / "sorted" / "in.png"
    target.parent.mkdir()
    path.rename(target)
    bench.look()
    assert len(bench.rows()) == 1 and len(bench.service.requests) == 1
    assert any("moved from in.png" in line for line in bench.said)


def test_a_file_that_is_only_touched_is_quiet_and_one_with_new_content_is_inspected(bench: Bench) -> None:
    path = bench.add("camera.png", picture(1))
    bench.look()
    os.utime(path, (5, 5))
    bench.look()
    assert len(bench.rows()) == 1
    bench.add("camera.png", picture(2))
    bench.look()
    assert len(bench.rows()) == 2 and len(bench.service.requests) == 2


def test_a_file_deleted_before_its_turn_and_one_deleted_after_are_no_fault(bench: Bench) -> None:
    early, late = bench.add("early.png", picture(1)), bench.add("late.png", picture(2))
    bench.watcher.step()
    bench.now += 2.0
    early.unlink()
    bench.watcher.step()
    late.unlink()
    bench.look()
    assert [Path(row["image"]).name for row in bench.rows()] == ["late.png"]
    bench.add("late.png", picture(2))
    bench.look()
    assert len(bench.rows()) == 1


def test_a_folder_that_goes_and_comes_back_is_waited_for_and_repeats_nothing(bench: Bench) -> None:
    bench.add("a.png", picture(1))
    bench.look()
    away = bench.images.with_name("away")
    bench.images.rename(away)
    bench.look()
    assert any("waiting" in line for line in bench.said) and sum("cannot be read" in line for line in bench.said) == 1
    bench.images.mkdir()  # the mount point without its drive
    bench.look()
    bench.images.rmdir()
    away.rename(bench.images)
    bench.add("b.png", picture(2))
    bench.look()
    assert [Path(row["image"]).name for row in bench.rows()] == ["a.png", "b.png"]


def test_a_restart_goes_on_and_takes_in_what_came_in_between(bench: Bench) -> None:
    bench.add("a.png", picture(1))
    bench.look()
    bench.add("b.png", picture(2))
    bench.start()
    bench.look()
    assert [Path(row["image"]).name for row in bench.rows()] == ["a.png", "b.png"]
    assert len(bench.service.requests) == 2


def test_hundreds_of_files_go_through_and_none_is_asked_for_while_the_queue_is_full(bench: Bench) -> None:
    for number in range(300):
        bench.add(f"{number:03}.png", picture(number))
    bench.service.full = True
    bench.look()
    assert bench.rows() == []
    bench.service.full = False
    bench.look()
    assert len(bench.rows()) == 300 == bench.store.counts().inspections
    assert "300 new images" in bench.said


def test_findings_are_kept_for_review_with_images_and_map(bench: Bench) -> None:
    bench.add("a.png", picture(1))
    bench.look()
    (entry,) = bench.store.pending()
    assert (entry.name, entry.category, entry.model, entry.threshold) == ("a.png", "cap", MODEL.revision, 0.5)
    assert bench.store.image(entry.image) == picture(1) and len(entry.references) == 1
    found = kept_map(bench.store, entry.image, entry.references, entry.model)
    assert found is not None and found.shape == (16, 16) and found[0, 0] == round(entry.score * 255)


def test_an_odd_file_name_is_inspected_and_shown(bench: Bench) -> None:
    path = os.path.join(os.fsencode(bench.images), b"odd\xff<b>.png")
    with open(path, "wb") as file:
        file.write(picture(1))
    bench.look()
    bench.look()
    (row,) = bench.rows()
    assert row["image"].endswith("odd\N{REPLACEMENT CHARACTER}<b>.png") and row["verdict"] != "unreadable"


def test_killed_at_any_time_nothing_is_lost_and_nothing_repeated(tmp_path: Path) -> None:
    number, taken = 60, list[tuple[str, int]]()

    def respond(body: dict[str, object], count: int) -> Served:
        taken.append((str(body["image"]), int(str(body["number"]))))
        return Served(b"", 500 if count % 5 == 0 else 200)

    (tmp_path / "images").mkdir()
    generator = random.Random(4)
    with served(respond) as server:

        def start(seconds: int) -> Forked:
            command = ["tests.support.watched", str(tmp_path), server.url, str(seconds)]
            return Forked(command, environment=os.environ | PROGRAM, cwd=ROOT)

        written = 0
        for _ in range(6):
            process = start(60)
            assert process.stdout is not None and process.stdout.readline() == "watching\n"
            for _ in range(8):
                (tmp_path / "images" / f"{written}.png").write_bytes(picture(written))
                written += 1
                time.sleep(generator.uniform(0.0, 0.03))
            time.sleep(generator.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            process.wait()
        while written < number:
            (tmp_path / "images" / f"{written}.png").write_bytes(picture(written))
            written += 1
        last = start(6)
        said = last.communicate()[1]
        assert last.returncode == 0, said
    rows = rows_of(tmp_path / "watch")
    assert sorted(Path(row["image"]).name for row in rows) == sorted(f"{each}.png" for each in range(number))
    assert [row["number"] for row in rows] == list(range(1, number + 1))
    assert {row["duplicate_of"] for row in rows} == {None}
    bench = Bench(tmp_path)
    names = [entry.name for entry in bench.store.pending(limit=-1)]
    assert len(names) == number == len(set(names))
    assert {image for image, _ in taken} == {row["image"] for row in rows}
    assert len({pair for pair in taken}) == number


def test_a_result_file_moved_away_is_begun_anew_with_what_follows(bench: Bench) -> None:
    bench.add("a.png", picture(1))
    bench.look()
    path = bench.output / "inspection.jsonl"
    shutil.move(path, bench.output / "old.jsonl")
    bench.start()
    bench.add("b.png", picture(2))
    bench.look()
    assert [json.loads(line)["number"] for line in path.read_text().splitlines()] == [2]
