"""Replies on disk: appended whole, found again, and none that is damaged is taken for one."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from sage_jax.endpoint.replies import ReplyStore
from sage_jax.errors import UserError


def filled(path: Path, number: int = 5) -> dict[str, str]:
    store, texts = ReplyStore(path), {f"key{i}": f"reply\r\n {i} \u2028 ü \ud800" for i in range(number)}
    for key, text in texts.items():
        store.put(key, text)
    return texts


def test_replies_are_found_again(tmp_path: Path) -> None:
    texts = filled(tmp_path / "deep" / "replies.jsonl")
    store = ReplyStore(tmp_path / "deep" / "replies.jsonl")
    assert {key: store.get(key) for key in texts} == texts and store.num_damaged == 0
    assert store.get("other") is None and len(store) == 5
    assert len(ReplyStore(tmp_path / "none.jsonl")) == 0 and not (tmp_path / "none.jsonl").exists()


def test_a_line_that_a_kill_cut_short_is_dropped_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    texts = filled(path, 2)
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(first, len(content)):
        path.write_bytes(content[:length])
        store = ReplyStore(path)
        assert (store.get("key0"), store.get("key1"), store.num_damaged) == (texts["key0"], None, 0)
        store.put("key2", "new")
        again = ReplyStore(path)
        assert (again.get("key0"), again.get("key2"), again.num_damaged) == (texts["key0"], "new", 0)


def test_a_damaged_line_counts_as_not_there(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    texts = filled(path)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        flipped = bytearray(content)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        store = ReplyStore(path)
        found = {key: store.get(key) for key in texts}
        assert all(text in (None, texts[key]) for key, text in found.items())
        assert list(found.values()).count(None) in (1, 2) and len(store) == 5 - list(found.values()).count(None)


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    store = ReplyStore(tmp_path / "replies.jsonl")

    def put(name: str) -> None:
        for number in range(50):
            store.put(f"{name}{number}", name * 500)

    threads = [threading.Thread(target=put, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "replies.jsonl").read_text().splitlines()
    assert len(lines) == len(ReplyStore(tmp_path / "replies.jsonl")) == 200
    assert {json.loads(line)["key"] for line in lines} == {f"{name}{i}" for name in "abcd" for i in range(50)}


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match=r"folder\.jsonl: cannot be read"):
        ReplyStore(tmp_path / "folder.jsonl")
    store = ReplyStore(tmp_path / "replies.jsonl")
    os.symlink("/dev/full", tmp_path / "replies.jsonl")
    with pytest.raises(UserError, match=r"replies\.jsonl: cannot be written: No space left"):
        store.put("key", "text")
    assert store.get("key") is None
