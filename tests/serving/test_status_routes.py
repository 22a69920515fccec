"""What a supervisor, Prometheus and a reader see."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.support.served import Served, png

Start = Callable[..., contextlib.AbstractContextManager[Served]]


def test_ready_tells_the_model_and_waits_for_it(served: Served, start: Start) -> None:
    assert served.get("/health").json() == {"status": "alive"}
    about = served.get("/ready").json()
    assert about["status"] == "ready" and about["model"]["revision"] == served.service.revision
    with start(working=False) as other:
        other.service.state = "warming"
        assert other.get("/ready").status_code == 503 and other.get("/health").status_code == 200
        refused = other.inspect(png(0))
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "5"


def test_metrics_are_prometheus_text_and_count(served: Served) -> None:
    def images() -> float:
        families = {each.name: each for each in text_string_to_metric_families(served.get("/metrics").text)}
        assert {"sage_queue_images", "sage_batch_images", "sage_request_seconds"} <= families.keys()
        return sum(each.value for each in families["sage_images"].samples if each.name.endswith("_total"))

    before = images()
    served.inspect(png(0))
    assert images() == before + 1


def test_the_page_shows_every_route_and_field_and_loads_nothing(served: Served) -> None:
    page = served.get("/docs").text
    for shown in ("/v1/inspect", "/v1/chat/completions", "/v1/models", "/metrics", "InspectAnswer", "probability"):
        assert shown in page
    assert re.findall(r"(?:src|href)=[\"']?([^\"'> ]+)", page) == ["openapi.json"]
    assert "<script" not in page and "@import" not in page and "url(" not in page
    schema = served.get("/openapi.json").json()
    assert (
        "image"
        in schema["paths"]["/v1/inspect"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"][
            "properties"
        ]
    )
