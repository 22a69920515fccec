"""Events in the format that TensorBoard reads, and a disk that is full."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sage_jax.journal.tensorboard import EventFile


def checksum_of(data: bytes) -> int:
    """The masked CRC-32C of a TFRecord, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records_of(path: Path) -> list[bytes]:
    """The frames of a TFRecord file, their checksums compared."""
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        length, of_length = struct.unpack_from("<QI", content, at)
        data = content[at + 12 : at + 12 + length]
        (of_data,) = struct.unpack_from("<I", content, at + 12 + length)
        assert (of_length, of_data) == (checksum_of(content[at : at + 8]), checksum_of(data))
        found.append(data)
        at += length + 16
    return found


def test_every_row_is_on_the_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    events = EventFile(tmp_path, 3)
    events.scalars(3, {"loss": 0.25, "norm": 2.0})
    (path,) = tmp_path.iterdir()
    version, start, *rows = records_of(path)
    assert b"brain.Event:2" in version and len(start) > 0
    assert [(b"loss" in row, b"norm" in row) for row in rows] == [(True, False), (False, True)]
    assert struct.pack("<f", 0.25) in rows[0]
    events.close()


def test_a_full_disk_is_raised_where_the_row_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_jax.journal.tensorboard.socket.gethostname", lambda: "here")
    monkeypatch.setattr("sage_jax.journal.tensorboard.time.time", lambda: 7.5)
    (tmp_path / "events.out.tfevents.7.here").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        EventFile(tmp_path, 0)
