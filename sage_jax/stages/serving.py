"""Stage `serve`: a trained model behind HTTP, until a signal stops it."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from sage_jax.corrections.entries import CorrectionFault
from sage_jax.endpoint.budget import read_key
from sage_jax.errors import UserError
from sage_jax.process import signals
from sage_jax.process.signals import StopSignals
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.reviewing import keep_requests, review_of
from sage_jax.stages.run import Run
from sage_jax.stages.watching import check_watch, watching

if TYPE_CHECKING:
    from sage_jax.serving.service import Service

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(run: Run) -> None:
    """Loads the model, compiles it, and answers requests until SIGINT or SIGTERM; then it finishes what waits.

    Into the run folder go corrections alone, and no lock is taken: several services may share a run. With
    `watch.folder` it watches that folder beside.

    Raises:
      UserError: The extra `serve` is not installed; the port cannot be had; there is no such model or reference.
    """
    try:
        from sage_jax.serving.app import create_app
        from sage_jax.serving.reference_images import ReferenceImages
        from sage_jax.serving.server import address_of, listening_socket, serving
        from sage_jax.serving.service import Service
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs the package {error.name}: pip install 'sage-jax[serve]'") from None
    if run.config.watch.folder:
        check_watch(run.config)
    options = run.config.serve
    api_key = read_key(options.api_key_env, field="serve.api_key_env")
    references = ReferenceImages(run.config.inspect.references)
    listening = listening_socket(options)
    service = Service(inspection_model(run, run.config.inspect.stage, wanted_by="serve"), options, references)
    review = _review(run, service, api_key)
    app = create_app(service, api_key=api_key, **review)
    with StopSignals() as stop, contextlib.ExitStack() as opened:
        stop.announce(_say, "the images that wait")
        opened.enter_context(serving(app, listening, options))
        ended = opened.enter_context(watching(run, service, references)) if run.config.watch.folder else lambda: False
        if not api_key and options.host not in _LOOPBACK:
            _say(f"no key is asked for at {options.host}: set serve.api_key_env, or have a proxy ask for one")
        service.warm_up(_say)
        threshold = service.model.thresholds[bool(references.names)]
        _say(f"threshold {threshold.value:g}; promise: {threshold.promise}")
        _say(f"ready: {address_of(listening)}/docs; {service.model.stage} of {run.config.run_dir}")
        if review:
            _say(f"review: {address_of(listening)}/review")
        service.work(lambda: signals.requested() or ended())
        _say("stopped: all that waited is answered")


def _review(run: Run, service: Service, api_key: str) -> dict[str, Any]:
    """Routes of the page for review, and whom it lets in; none where it is off, or the run folder cannot be written."""
    from sage_jax.review.routes import review_router

    if not run.config.review.page:
        return {}
    try:
        review = review_of(run, service, api_key)
    except CorrectionFault as fault:
        _say(f"no page for review: {fault}")
        return {}
    if run.config.review.keep_requests:
        keep_requests(run, service, review.store)
    return {"routers": [review_router(review)], "admits": review.sessions.admits}


def _say(line: str) -> None:
    print(f"serve: {line}", file=sys.stderr, flush=True)
