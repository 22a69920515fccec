"""The routes of the page: their policy, what they refuse, and what they keep."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from sage_jax.corrections.store import CorrectionStore
from sage_jax.review.routes import POLICY, static_files
from tests.support.reviewed import HEIGHT, WIDTH, page_at, store_at


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> CorrectionStore:
    return store_at(tmp_path_factory.mktemp("review"))


@pytest.fixture(scope="module")
def client(store: CorrectionStore) -> Iterator[httpx2.Client]:
    with page_at(store) as address, httpx2.Client(base_url=f"{address}/review", timeout=60) as found:
        yield found


def correct(client: httpx2.Client, number: int = 1, **fields: Any) -> httpx2.Response:
    return client.post(f"/api/inspections/{number}/correct", json={"who": "Ana", "right": False, **fields})


def test_page_and_files_have_a_policy_without_inline_scripts(client: httpx2.Client) -> None:
    page = client.get("", follow_redirects=True)
    assert page.headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=", page.text) == []
    assert not re.findall(r"https?://", page.text)
    names = re.findall(r"/review/static/([\w.]+)", page.text)
    assert len(names) == 2
    for name, content in static_files().items():
        found = client.get(f"/static/{name}")
        assert found.content == content and found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-type"].startswith(("text/css", "text/javascript"))
        assert re.findall(rb"innerHTML|outerHTML\s*=|insertAdjacent|eval\(|https?://(?!www\.w3\.org)", content) == []
    for name in ("nothing.js", "..%2froutes.py", "routes.py"):
        assert client.get(f"/static/{name}").status_code == 404


def test_a_correction_is_kept_and_taken_back(client: httpx2.Client, store: CorrectionStore) -> None:
    box = {"left": 1, "top": 2, "right": 30, "bottom": 40}
    found = correct(client, verdict="defective", kind=" a  burr ", box=box, sentence="Over there.")
    assert found.status_code == 200, found.text
    (entry,) = store.corrected()
    said = entry.correction.correction if entry.correction else None
    assert said is not None and (said.kind, said.sentence) == ("a burr", "Over there.")
    assert found.json()["correction"]["who"] == "Ana" and found.json()["correction"]["said"]["box"] == box
    assert client.post("/api/inspections/1/undo", json={"who": "Ana"}).json()["correction"] is None
    assert client.post("/api/inspections/1/undo", json={"who": "Ana"}).status_code == 422


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"who": "  "}, 422, "who is empty"),
        ({"right": True, "verdict": "defective"}, 422, "the model said good"),
        ({"verdict": "good", "kind": "scratch"}, 422, "a good part has no defect"),
        ({"verdict": "maybe"}, 422, "verdict"),
        ({"verdict": "defective", "cell": "nowhere"}, 422, "cell"),
        ({"verdict": "defective", "box": {"left": 5, "top": 0, "right": 5, "bottom": 9}}, 422, "left < right"),
        ({"verdict": "defective", "box": {"left": 0, "top": 0, "right": WIDTH + 1, "bottom": HEIGHT}}, 422, "inside"),
        ({"verdict": "defective", "sentence": "x" * 1001}, 422, "sentence"),
        ({"colour": "red"}, 422, "colour"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    client: httpx2.Client, store: CorrectionStore, fields: dict[str, Any], status: int, message: str
) -> None:
    before = len(store.history(2))
    found = correct(client, 2, **fields)
    assert found.status_code == status and message in found.json()["error"]["message"]
    assert len(store.history(2)) == before


def test_unknown_things_are_not_found(client: httpx2.Client) -> None:
    assert correct(client, 999, verdict="good").status_code == 404
    assert client.get("/api/inspections/999").status_code == 404
    assert client.get("/maps/999").status_code == 404
    assert client.get(f"/images/{'0' * 64}").status_code == 404
    assert client.get("/images/..%2f..%2fcorrections.sqlite").status_code in (404, 422)
    assert client.get("/api/queue?order=colour").status_code == 422


def test_another_site_and_another_content_type_change_nothing(client: httpx2.Client, store: CorrectionStore) -> None:
    body = {"who": "Eve", "right": False, "verdict": "defective"}
    for site in ("cross-site", "same-site"):
        found = client.post("/api/inspections/3/correct", json=body, headers={"Sec-Fetch-Site": site})
        assert found.status_code == 403
    found = client.post("/api/inspections/3/correct", content=b'{"who": "Eve"}', headers={"Content-Type": "text/plain"})
    assert found.status_code == 415 and store.history(3) == []


def test_without_the_key_only_the_empty_page_is_shown(store: CorrectionStore) -> None:
    with page_at(store, api_key="secret") as address, httpx2.Client(base_url=address, timeout=60) as client:
        assert client.get("/review").status_code == 200 and client.get("/review/static/main.js").status_code == 200
        digest = store.inspection(1).image
        closed = ["/review/api/queue", "/review/api/history", f"/review/images/{digest}", "/review/maps/1"]
        for path in closed:
            assert client.get(path).status_code == 401, path
        assert client.post("/review/api/inspections/1/correct", json={}).status_code == 401
        assert client.post("/review/session", json={"key": "wrong"}).status_code == 401
        answer = client.post("/review/session", json={"key": "secret"})
        cookie = answer.headers["set-cookie"]
        assert (
            all(part in cookie for part in ("HttpOnly", "SameSite=strict", "Path=/review")) and "secret" not in cookie
        )
        for path in closed:
            assert client.get(path).status_code == 200, path
        client.delete("/review/session")
        client.cookies.clear()
        assert client.get(closed[0]).status_code == 401
        assert client.get(closed[0], headers={"Authorization": "Bearer secret"}).status_code == 200
