"""A store of drawn inspections, the page for review at an address, and a browser to look at it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from selenium import webdriver
from selenium.webdriver.chrome.service import Service as Driver
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from sage_jax.config import ServeConfig
from sage_jax.corrections.entries import Finding, ModelVerdict
from sage_jax.corrections.maps import keep
from sage_jax.corrections.store import CorrectionStore
from sage_jax.data.images import encode_png
from sage_jax.review.routes import Review, review_router
from sage_jax.review.sessions import Sessions
from sage_jax.serving.faults import RequestFault
from sage_jax.serving.guard import Guard, fault_response
from sage_jax.serving.measures import Measures
from sage_jax.serving.server import address_of, listening_socket, serving

WIDTH, HEIGHT = 120, 80
KINDS = ("scratch", "crack", "dent")
PHONE = (390, 844)
DESKTOP = (1400, 900)


def add(
    store: CorrectionStore, number: int, *, score: float, verdict: ModelVerdict | None = None, **fields: Any
) -> int:
    """Adds an inspection of a drawn part."""
    pixels = np.random.default_rng(number).integers(90, 160, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels[20:40, 60:90] = (200, 40, 40)
    found = np.zeros((HEIGHT, WIDTH), np.float32)
    found[20:40, 60:90] = score
    given = verdict or ("defective" if score >= 0.5 else "good")
    words = "Yes. There is a scratch in the upper right." if given == "defective" else "No. The part matches."
    plain: dict[str, Any] = {
        "references": (encode_png(np.full((HEIGHT, WIDTH, 3), 120, np.uint8)),),
        "name": f"part {number}.png",
        "category": "washer",
        "reason": words,
        "boxes": ((60, 20, 90, 40, score),) if score >= 0.5 else (),
        "model": "model 1",
        "source": "folder images",
    }
    finding = Finding(image=encode_png(pixels), verdict=given, score=score, threshold=0.5, **{**plain, **fields})
    return keep(store, finding, found)


@contextlib.contextmanager
def page_at(store: CorrectionStore, *, api_key: str = "", **fields: Any) -> Iterator[str]:
    """The page behind the service's guard; gives its address."""
    sessions = Sessions(api_key, 1.0)
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(review_router(Review(store, sessions, "sfe of runs/line3", KINDS, **fields)))
    app.add_exception_handler(RequestFault, _on_fault)
    options = ServeConfig(port=0)
    app.add_middleware(
        Guard,
        options=options,
        api_key=api_key,
        measures=Measures(lambda: 0),
        known=frozenset(),
        admits=sessions.admits,
    )
    listening = listening_socket(options)
    with serving(app, listening, options):
        yield address_of(listening)


async def _on_fault(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, RequestFault)
    return fault_response(error)


@contextlib.contextmanager
def chromium(size: tuple[int, int] = DESKTOP, *, phone: bool = False) -> Iterator[webdriver.Chrome]:
    """A browser without a screen; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no Chromium with its chromedriver on this machine: the page is not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "lang=en"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if phone:
        metrics = {"width": size[0], "height": size[1], "pixelRatio": 2.0, "touch": True, "mobile": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    browser = webdriver.Chrome(options=options, service=Driver(driver))
    try:
        yield browser
    finally:
        browser.quit()


def severe(browser: webdriver.Chrome) -> list[str]:
    """Errors of the console since the last call: of scripts, of the content policy, of files that are missing."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def store_at(folder: Path) -> CorrectionStore:
    """A store of six parts: three called good, two defective, one unsure."""
    store = CorrectionStore(folder / "corrections")
    for number, score in enumerate((0.1, 0.3, 0.45, 0.55, 0.9), start=1):
        add(store, number, score=score)
    add(store, 6, score=0.4, verdict="unsure")
    return store
