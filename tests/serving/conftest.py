"""A model with random weights behind a real server on this machine, shared by the tests of the service."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sage_jax.config import ServeConfig
from sage_jax.inspection.inspection_model import InspectionModel
from sage_jax.serving.app import create_app
from sage_jax.serving.reference_images import ReferenceImages
from sage_jax.serving.server import address_of, listening_socket, serving
from sage_jax.serving.service import Service
from sage_jax.stages.answering_model import inspection_model
from tests.support.served import Served, png
from tests.support.tiny_export import TRAINED_HERE, make_run


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of references: two files, and a folder of two."""
    folder = tmp_path_factory.mktemp("good")
    for name, seed in (("a.png", 100), ("b.png", 104), ("caps/1.png", 108), ("caps/2.png", 112)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(png(seed))
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> InspectionModel:
    """The model."""
    run_dir = tmp_path_factory.mktemp("served") / "line3"
    return inspection_model(make_run(dataclasses.replace(TRAINED_HERE, run_dir=str(run_dir))), wanted_by="serve")


@pytest.fixture(scope="session")
def start(model: InspectionModel, good: Path) -> Callable[..., contextlib.AbstractContextManager[Served]]:
    """Starts a server with other options, and a key where one is given."""

    @contextlib.contextmanager
    def started(*, api_key: str = "", working: bool = True, **options: object) -> Iterator[Served]:
        given = dataclasses.replace(ServeConfig(port=0, rows=(1,), max_pixels=20_000), **options)
        service = Service(model, given, ReferenceImages(str(good)))
        with contextlib.ExitStack() as held:
            if working:
                held.enter_context(service.working())
            else:
                service.state = "ready"
            listening = listening_socket(given)
            held.enter_context(serving(create_app(service, api_key=api_key), listening, given))
            yield Served(service, address_of(listening))

    return started


@pytest.fixture(scope="session")
def served(start: Callable[..., contextlib.AbstractContextManager[Served]]) -> Iterator[Served]:
    """A server at work."""
    with start() as found:
        yield found
