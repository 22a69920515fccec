"""Bodies of requests: base64 and data URLs alone, names without folders, faults that name the field."""

from __future__ import annotations

import base64

import pytest

from sage_jax.serving.faults import RequestFault
from sage_jax.serving.incoming import decoded, parsed, safe_name
from sage_jax.serving.wire import InspectBody

CONTENT = bytes(range(256))


@pytest.mark.parametrize("head", ["", "data:image/png;base64,", "data:;base64,", "data:image/png;charset=x;base64,"])
def test_base64_and_data_urls_are_decoded(head: str) -> None:
    assert decoded(head + base64.b64encode(CONTENT).decode(), "image") == CONTENT


@pytest.mark.parametrize(
    "text", ["http://a/b", "HTTPS://a", " ftp://x", "file:///x", "data:text/plain,abc", "gopher:x"]
)
def test_no_address_is_taken(text: str) -> None:
    with pytest.raises(RequestFault, match="image: an address .* is not opened") as raised:
        decoded(text, "image")
    assert raised.value.status == 422


def test_a_fault_names_its_fields_and_quotes_no_content() -> None:
    with pytest.raises(RequestFault) as raised:
        parsed(b'{"image": 3, "map": "secret", "a": 1, "b": 2, "c": 3}', InspectBody)
    assert "image: " in str(raised.value) and "and 2 more" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("given", "name"), [("a/b.png", "a_b.png"), ("..\\x", ".._x"), ("", "image"), ("\0a", "_a")])
def test_a_name_has_no_folders(given: str, name: str) -> None:
    assert safe_name(given) == name
