"""What holds for every request: the key, whatever its case or its scheme; and the counts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import httpx2
import pytest

from sage_jax.serving.faults import RequestFault
from sage_jax.serving.guard import fault_response
from tests.support.served import Served, base64_of, error_of, png

Start = Callable[..., contextlib.AbstractContextManager[Served]]


def test_without_the_key_only_health_and_ready_answer(start: Start) -> None:
    with start(api_key="s3cret-key") as served:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer s3cret-keyx"},
            {"X-API-Key": ""},
        ):
            refused = served.get("/v1/models", headers=headers)
            assert refused.status_code == 401 and refused.headers["WWW-Authenticate"] == "Bearer"
            assert "s3cret" not in error_of(refused)
        assert served.inspect(png(0)).status_code == 401
        assert [served.get(path).status_code for path in ("/health", "/ready", "/metrics", "/docs")] == [
            200,
            200,
            401,
            401,
        ]
        for headers in ({"Authorization": "bearer s3cret-key"}, {"X-API-Key": "s3cret-key"}):
            assert served.get("/metrics", headers=headers).status_code == 200
            body = {"image": base64_of(png(0))}
            answer = httpx2.post(f"{served.address}/v1/inspect", json=body, headers=headers, timeout=120)
            assert answer.status_code == 200


def test_unknown_paths_and_methods_have_the_form_of_all_errors(served: Served) -> None:
    missing, wrong = served.get("/v1/nothing"), served.get("/v1/inspect")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert error_of(missing) == "Not Found" and error_of(wrong) == "Method Not Allowed"


def test_answers_are_counted_by_path_and_status(served: Served) -> None:
    served.get("/v1/nothing")
    served.inspect(b"garbage")
    text = served.get("/metrics").text
    assert 'sage_requests_total{path="/v1/inspect",status="422"}' in text
    assert 'sage_requests_total{path="other",status="404"}' in text, "unknown paths share a name, or they fill memory"


@pytest.mark.parametrize(("status", "header"), [(401, "www-authenticate"), (429, "retry-after"), (413, "connection")])
def test_faults_carry_the_headers_that_clients_act_on(status: int, header: str) -> None:
    assert header in fault_response(RequestFault(status, "why", 3)).headers
