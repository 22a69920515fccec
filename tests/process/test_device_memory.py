"""What devices say of their memory."""

from __future__ import annotations

from types import SimpleNamespace

from sage_jax.process.device_memory import smallest_free, smallest_limit


def device(**stats: int) -> SimpleNamespace:
    return SimpleNamespace(memory_stats=lambda: stats or None)


def test_a_cpu_says_nothing() -> None:
    assert smallest_limit() is None and smallest_free() is None


def test_the_device_with_the_least_counts_and_one_that_does_not_tell_leaves_it_open() -> None:
    two = [device(bytes_limit=80, bytes_in_use=30), device(bytes_limit=60, bytes_in_use=5)]
    assert smallest_limit(two) == 60 and smallest_free(two) == 50
    assert smallest_limit([*two, device()]) is None
    assert smallest_free([*two, device(bytes_limit=70)]) is None
    assert smallest_limit([*two, device(bytes_limit=70)]) == 60
