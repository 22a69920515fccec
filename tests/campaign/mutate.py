"""Mutations of bytes and of JSON, as a bad disk, a bad program or a malicious one would make them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

_NUMBERS: Final = (-1, 0, 1, 2**31, 2**63, 10**400, -0.5, 1e308, float("nan"), float("inf"))
_TEXTS: Final = ("", " ", "\x00", "\x1b[2J", "\ud800", "../../etc/passwd", "/dev/zero", "a" * 5000)
_ODD: Final[tuple[Any, ...]] = (None, True, *_NUMBERS, *_TEXTS, [], [[]], {}, {"": None}, [0] * 300)
_PIECES: Final = (b"\x00" * 8, b'"', b"{", b"[" * 50, b"\xff\xfe", b"\n", b"9" * 40)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three mutations; JSON is changed as a tree half of the time, now and then as a whole."""
    for _ in range(rng.randint(1, 3)):
        tree = _as_json(content) if rng.random() < 0.5 else None
        content = _mutated_tree(tree[0], rng) if tree is not None else rng.choice(_BYTES)(content, rng)
    return content


def damage(content: bytes, how: str, rng: random.Random) -> bytes | None:
    """The content `truncated`, `emptied` or with one bit `flipped`; None where it is `deleted`."""
    if how == "deleted":
        return None
    if how == "emptied" or not content:
        return b""
    if how == "truncated":
        return content[: rng.randrange(len(content))]
    at, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def _flip(content: bytes, rng: random.Random) -> bytes:
    return damage(content, "flipped", rng) or b""


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _without(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + content[at + rng.randint(1, 40) :]


def _with(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    extra = rng.choice((rng.randbytes(rng.randint(1, 9)), *_PIECES))
    return content[:at] + extra + content[at:]


def _twice(content: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(content) + 1), rng.randint(1, 200)
    return content[: at + size] + content[at:]


def _swapped(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


_BYTES: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (_flip, _cut, _without, _with, _twice, _swapped)


def _as_json(content: bytes) -> tuple[Any] | None:
    try:
        return (json.loads(content),)
    except (ValueError, RecursionError):
        return None


def _mutated_tree(tree: Any, rng: random.Random) -> bytes:
    """The tree with the value of one node replaced, removed, renamed or doubled."""
    nodes = [tree]
    for node in nodes:
        inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        nodes += [each for each in inner if isinstance(each, dict | list) and each]
        if len(nodes) > 400:
            break
    node = rng.choice(nodes)
    if rng.random() < 0.05:
        tree = rng.choice(_ODD)
        return b"[" * 100_000 if tree is None else json.dumps(tree).encode("utf-8", "surrogatepass")
    if not isinstance(node, dict | list) or not node:
        tree = rng.choice(_ODD)
    else:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key, action = rng.choice(keys), rng.randrange(4)
        if action == 0:
            del node[key]
        elif action == 1 and isinstance(node, dict):
            node[str(key) + rng.choice(("_", "2", ""))] = node.pop(key)
        elif action == 2 and isinstance(node, list):
            node.insert(key, node[key])
        else:
            node[key] = rng.choice(_ODD)
    return json.dumps(tree).encode("utf-8", "surrogatepass")
