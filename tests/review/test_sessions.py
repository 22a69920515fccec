"""Signing in: a cookie for the right key alone, for the page alone, until its end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sage_jax.review import sessions
from sage_jax.review.sessions import COOKIE, Sessions, cookie_of


def scope(path: str, cookie: str = "") -> dict[str, object]:
    return {"path": path, "headers": [(b"cookie", f"other=1; {COOKIE}={cookie}".encode())] if cookie else []}


def test_the_right_key_gives_a_cookie_that_names_no_key() -> None:
    found = Sessions("secret", 1.0)
    cookie = found.opened_with(" secret\n")
    assert cookie is not None and "secret" not in cookie and found.holds(cookie)
    assert found.opened_with("Secret") is None and found.opened_with("") is None


def test_a_cookie_opens_the_page_and_nothing_else() -> None:
    found = Sessions("secret", 1.0)
    cookie = found.opened_with("secret") or ""
    assert found.admits(scope("/review/api/queue", cookie)) and not found.admits(scope("/review/api/queue"))
    for path in ("/v1/inspect", "/metrics", "/reviews", "/review2/api"):
        assert not found.admits(scope(path, cookie)), path
    for path in ("/review", "/review/session", "/review/static/main.js"):
        assert found.admits(scope(path)), path


@pytest.mark.parametrize(
    "change", [lambda c: "9" + c, lambda c: c[:-1] + ("0" if c[-1] != "0" else "1"), lambda c: c + "0"]
)
def test_a_changed_cookie_opens_nothing(change: Callable[[str], str]) -> None:
    found = Sessions("secret", 1.0)
    cookie = found.opened_with("secret") or ""
    assert not found.holds(change(cookie)) and not found.holds("")


def test_a_cookie_ends_and_another_key_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cookie = Sessions("secret", 1.0).opened_with("secret") or ""
    assert Sessions("secret", 5.0).holds(cookie) and not Sessions("other", 1.0).holds(cookie)
    now = sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now + 3601)
    assert not Sessions("secret", 1.0).holds(cookie)


def test_odd_cookies_are_none() -> None:
    assert cookie_of("") == "" and cookie_of(f"{COOKIE}") == "" and cookie_of("\x00=;;;") == ""
    found = Sessions("secret", 1.0)
    for odd in ("\xff.\xff", "١.0", "1e9.0", "." * 100):
        assert not found.holds(odd)
