"""Replies kept on disk under the hash of their request, so that none is asked for twice."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from sage_jax.errors import UserError
from sage_jax.process.checksums import open_json, sealed_json


class ReplyStore:
    """A file of replies, one a line, each sealed with its checksum; threads may use it together.

    Lines are only ever appended, each by one write. What a kill cut short is cut off when the file is opened; a line
    that is damaged counts as not there, and its reply is asked for again.

    Args:
      path: The file; made with the first reply.

    Attributes:
      num_damaged: Damaged lines that were found.

    Raises:
      UserError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.num_damaged = 0
        self._path, self._lock = path, threading.Lock()
        self._replies: dict[str, str] = {}
        try:
            content = path.read_bytes() if path.exists() else b""
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(path, whole)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
        for line in content[:whole].splitlines():
            self._take(line)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> str | None:
        """The text of the reply to a request, by `ChatRequest.key`; None where there is none."""
        with self._lock:
            return self._replies.get(key)

    def put(self, key: str, text: str) -> None:
        """Keeps the text of a reply.

        Raises:
          UserError: The file cannot be written; what it had stays whole.
        """
        line = json.dumps(sealed_json({"key": key, "text": text})).encode() + b"\n"
        with self._lock:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab", buffering=0) as file:
                    start = file.tell()
                    if file.write(line) < len(line):
                        file.truncate(start)
                        raise OSError("no space left")
            except OSError as error:
                raise UserError(f"{self._path}: cannot be written: {error.strerror or error}") from None
            self._replies[key] = text

    def _take(self, line: bytes) -> None:
        try:
            entry = open_json(line.decode())
            self._replies[str(entry["key"])] = str(entry["text"])
        except (ValueError, KeyError):
            self.num_damaged += 1
