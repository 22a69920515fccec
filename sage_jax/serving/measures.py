"""Counts and times of the service, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)


class Measures:
    """What `/metrics` shows; each service has its own.

    Args:
      waiting: Images in the queue at the moment.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        queue = Gauge("sage_queue_images", "Images that wait for the model", registry=self._registry)
        queue.set_function(waiting)
        self._requests = Counter("sage_requests", "Answered HTTP requests", ["path", "status"], registry=self._registry)
        self._request_seconds = Histogram(
            "sage_request_seconds",
            "From the head of a request to its answer, s",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._verdicts = Counter("sage_images", "Inspected images", ["verdict"], registry=self._registry)
        self._waited = Histogram(
            "sage_queue_seconds",
            "Time that an image waited for the model, s",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram("sage_batch_images", "Images of a batch", buckets=_IMAGES, registry=self._registry)
        self._rows = Counter("sage_batch_rows", "Rows of all batches, padding included", registry=self._registry)
        self._model = Counter("sage_model_seconds", "Time that the model worked, s", registry=self._registry)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def batch(self, images: int, rows: int, seconds: float) -> None:
        """Counts a batch of the model."""
        self._batches.observe(images)
        self._rows.inc(rows)
        self._model.inc(seconds)

    def finding(self, verdict: str, waited: float) -> None:
        """Counts an inspected image that waited so many seconds."""
        self._verdicts.labels(verdict).inc()
        self._waited.observe(waited)

    def text(self) -> bytes:
        """All of it in the text format."""
        return generate_latest(self._registry)
