"""Stage `serve`: a trained model behind HTTP, until a signal stops it."""

from __future__ import annotations

import sys

from sage_jax.endpoint.budget import read_key
from sage_jax.errors import UserError
from sage_jax.process import signals
from sage_jax.process.signals import StopSignals
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.run import Run

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def serve(run: Run) -> None:
    """Loads the model, compiles it, and answers requests until SIGINT or SIGTERM; then it finishes what waits.

    Nothing is written into the run folder and no lock is taken: several services may share a run.

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
    options = run.config.serve
    api_key = read_key(options.api_key_env, field="serve.api_key_env")
    references = ReferenceImages(run.config.inspect.references)
    listening = listening_socket(options)
    service = Service(inspection_model(run, run.config.inspect.stage, wanted_by="serve"), options, references)
    app = create_app(service, api_key=api_key)
    with StopSignals() as stop, serving(app, listening, options):
        stop.announce(_say, "the images that wait")
        if not api_key and options.host not in _LOOPBACK:
            _say(f"no key is asked for at {options.host}: set serve.api_key_env, or have a proxy ask for one")
        service.warm_up(_say)
        threshold = service.model.thresholds[bool(references.names)]
        _say(f"threshold {threshold.value:g}; promise: {threshold.promise}")
        _say(f"ready: {address_of(listening)}/docs; {service.model.stage} of {run.config.run_dir}")
        service.work(signals.requested)
        _say("stopped: all that waited is answered")


def _say(line: str) -> None:
    print(f"serve: {line}", file=sys.stderr, flush=True)
