"""Stage `watch`: a folder whose new images are inspected as they come, until a signal stops it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sage_jax.config import Config, ConfigError, WatchConfig
from sage_jax.corrections.store import store_of
from sage_jax.endpoint.budget import read_key
from sage_jax.errors import UserError
from sage_jax.inspection.images import category_of
from sage_jax.process import signals
from sage_jax.process.files import locked
from sage_jax.process.signals import StopSignals
from sage_jax.stages.answering_model import inspection_model
from sage_jax.stages.folder import held_by_one
from sage_jax.stages.run import Run
from sage_jax.stages.versions import root_of

if TYPE_CHECKING:
    from sage_jax.serving.reference_images import ReferenceImages
    from sage_jax.serving.service import Service
    from sage_jax.watching.journal import WatchJournal
    from sage_jax.watching.watcher import Model, Watcher
    from sage_jax.watching.webhook import Webhook

RESULTS = "inspection.jsonl"


def watch(run: Run) -> None:
    """Loads the model, and inspects what comes into `watch.folder` until SIGINT or SIGTERM.

    Raises:
      UserError: The extra `serve` is not installed; there is no such folder; another process watches with the same
        output; results cannot be kept.
    """
    try:
        from sage_jax.serving.reference_images import ReferenceImages
        from sage_jax.serving.service import Service
    except ModuleNotFoundError as error:
        raise UserError(f"watch needs the package {error.name}: pip install 'sage-jax[serve]'") from None
    check_watch(run.config)
    references = ReferenceImages(run.config.inspect.references)
    service = Service(inspection_model(run, run.config.inspect.stage, wanted_by="watch"), run.config.serve, references)
    with StopSignals() as stop, contextlib.ExitStack() as opened:
        stop.announce(_say, "the images under way")
        ended = opened.enter_context(watching(run, service, references))
        service.warm_up(_say)
        _say(f"threshold {service.model.thresholds[bool(references.names)].value:g}")
        _say(f"ready: {run.config.watch.folder}; {service.model.stage} of {run.config.run_dir}")
        service.work(lambda: signals.requested() or ended())


def check_watch(config: Config) -> None:
    """Checks, before a model is loaded, that there is a folder to watch.

    Raises:
      ConfigError: There is none.
    """
    folder = Path(config.watch.folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"watch.folder = {config.watch.folder!r}: no such folder: make it, or give another")


@contextlib.contextmanager
def watching(run: Run, service: Service, references: ReferenceImages) -> Iterator[Callable[[], bool]]:
    """Watches `watch.folder` in a thread of its own inside the block, from when the service is ready.

    Gives whether it has ended by itself, which a fault alone makes it do. Leaving the block waits until what is under
    way is written down.

    Raises:
      UserError: Results cannot be kept, or another process watches with the same output.
    """
    from sage_jax.watching.journal import WatchJournal
    from sage_jax.watching.result_file import ResultFile
    from sage_jax.watching.watcher import Watcher

    options, output = run.config.watch, watch_output(run)
    hook_key = read_key(options.webhook_key_env, field="watch.webhook_key_env")
    with contextlib.ExitStack() as held:
        with held_by_one("watch.output", output):
            held.enter_context(locked(output))
        journal = WatchJournal(output)
        webhook = _webhook(options, hook_key, journal, output)
        watcher = Watcher(
            service,
            _model(run, service, references),
            options,
            journal=journal,
            output=ResultFile(output / RESULTS, journal),
            store=store_of(root_of(run.folder.path)) if options.keep_for_review else None,
            webhook=webhook,
            most=2 * max(service.options.rows),
            say=_say,
        )
        work = _Work(watcher, service)
        if webhook is not None:
            webhook.start()
        work.start()
        try:
            yield lambda: not work.is_alive() or (webhook is not None and webhook.error is not None)
        finally:
            work.leave()
            left = 0 if webhook is None else webhook.stop()
            more = f"; {left} wait for the webhook, and are posted after the next start" if left else ""
            _say(f"stopped: {watcher.num_results} results in {output / RESULTS}{more}")
        work.check()
        if webhook is not None and webhook.error is not None:
            raise webhook.error


def watch_output(run: Run) -> Path:
    """Folder of the results."""
    given = run.config.watch.output
    return Path(given).expanduser() if given else root_of(run.folder.path) / "watch"


def _webhook(options: WatchConfig, api_key: str, journal: WatchJournal, output: Path) -> Webhook | None:
    """What posts the results; None without an address."""
    from sage_jax.watching.webhook import Webhook

    if not options.webhook:
        return None
    return Webhook(
        options.webhook,
        journal,
        name=output.resolve().name,
        say=_say,
        api_key=api_key,
        timeout_seconds=options.webhook_seconds,
    )


class _Work(threading.Thread):
    """The thread of a watcher."""

    def __init__(self, watcher: Watcher, service: Service) -> None:
        super().__init__(name="watch", daemon=True)
        self._watcher, self._service = watcher, service
        self._leaving, self._fault = threading.Event(), list[BaseException]()

    def run(self) -> None:
        try:
            while self._service.state == "warming":
                if self._leaving.wait(0.05):
                    return
            self._watcher.run(lambda: self._leaving.is_set() or self._service.state == "stopping")
        except BaseException as error:
            self._fault.append(error)

    def leave(self) -> None:
        """Ends the work when what is under way is written down."""
        self._leaving.set()
        self.join()

    def check(self) -> None:
        """Raises what ended the work before its time."""
        if self._fault:
            raise self._fault[0]


def _model(run: Run, service: Service, references: ReferenceImages) -> Model:
    from sage_jax.watching.watcher import Model

    given = run.config.inspect.category
    thresholds = service.model.thresholds
    return Model(
        revision=service.revision,
        threshold=lambda number: thresholds[number > 0].value,
        references=lambda name: references.for_image(name, run.config.num_references),
        category=lambda path: given or category_of(path, service.model.evaluator.vocabulary),
        language=run.config.data.language,
    )


def _say(line: str) -> None:
    print(f"watch: {line}", file=sys.stderr, flush=True)
