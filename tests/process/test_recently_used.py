"""A bounded memory of values, against a plain list of what was used last."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sage_jax.process.recently_used import RecentlyUsed


def test_the_least_recently_used_is_dropped() -> None:
    rng = np.random.default_rng(0)
    memory, used, made = RecentlyUsed(5 * 80), [], []
    for key in rng.integers(0, 9, 400).tolist():
        kept = key in used

        def make(key: int = key) -> np.ndarray:
            made.append(key)
            return np.full(10, float(key))

        before = len(made)
        assert memory.get(key, make)[0] == key and (len(made) == before) == kept
        used = [*(each for each in used if each != key), key][-5:]
        assert all((memory.find(each) is not None) == (each in used) for each in used)
        for each in list(used):  # `find` is a use as well
            memory.find(each)


def test_one_that_is_too_large_is_given_and_not_kept() -> None:
    memory = RecentlyUsed(100)
    assert memory.get("large", lambda: np.zeros(100)).nbytes == 800 and memory.find("large") is None


def test_a_worker_begins_with_an_empty_memory_of_the_same_size() -> None:
    memory = RecentlyUsed(1000)
    memory.get("a", lambda: np.zeros(10))
    other = pickle.loads(pickle.dumps(memory))
    assert other.find("a") is None and other.get("a", lambda: np.ones(10))[0] == 1.0


def test_threads_get_one_object_for_one_key() -> None:
    memory = RecentlyUsed(10**6)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda index: memory.get(index % 3, lambda: np.zeros(4)), range(300)))
    for index, each in enumerate(found):
        assert each is memory.find(index % 3)


def test_a_dropped_value_is_made_again_and_its_room_is_free() -> None:
    kept = RecentlyUsed(16)
    first = kept.get("a", lambda: np.zeros(2))
    kept.drop("a")
    kept.drop("never there")
    assert kept.find("a") is None
    other = kept.get("b", lambda: np.zeros(2))
    assert kept.find("b") is other and kept.get("a", lambda: np.ones(2)) is not first
