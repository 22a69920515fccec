"""Counts of the service: each service has its own."""

from __future__ import annotations

from sage_jax.serving.measures import Measures


def test_what_is_counted_is_shown_and_services_share_nothing() -> None:
    one, other = Measures(lambda: 7), Measures(lambda: 0)
    one.request("/v1/inspect", 200, 0.2)
    one.batch(3, 4, 0.5)
    one.finding("good", 0.1)
    text = one.text().decode()
    for line in (
        "sage_queue_images 7.0",
        'sage_requests_total{path="/v1/inspect",status="200"} 1.0',
        "sage_batch_rows_total 4.0",
        "sage_model_seconds_total 0.5",
        'sage_images_total{verdict="good"} 1.0',
        "sage_queue_seconds_sum 0.1",
    ):
        assert line in text
    assert "sage_batch_rows_total 0.0" in other.text().decode()
