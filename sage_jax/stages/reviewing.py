"""The page for review of a run: its store, its versions, and who may see it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_jax.corrections.entries import finding_of
from sage_jax.corrections.maps import keep
from sage_jax.corrections.store import CorrectionStore, store_of
from sage_jax.stages.learnt import MEASURES
from sage_jax.stages.run import Run
from sage_jax.stages.versions import Version, VersionError, root_of, versions_of

if TYPE_CHECKING:
    from sage_jax.review.routes import Review
    from sage_jax.serving.jobs import Finding
    from sage_jax.serving.service import Request, Service


def review_of(run: Run, service: Service, api_key: str) -> Review:
    """What the page of a service is about.

    Raises:
      CorrectionFault: The store cannot be made in the run folder.
    """
    from sage_jax.review.routes import Review
    from sage_jax.review.sessions import Sessions

    vocabulary = service.model.evaluator.vocabulary
    return Review(
        store=store_of(root_of(run.folder.path)),
        sessions=Sessions(api_key, run.config.review.session_hours),
        title=f"{service.model.stage} of {run.config.model.weights or run.config.run_dir}",
        kinds=vocabulary.defect_terms,
        versions=lambda: versions_json(run.folder.path),
    )


def versions_json(answering: Path) -> dict[str, Any]:
    """The versions of a run for the page.

    Args:
      answering: Run folder of the version that answers here.
    """
    root = root_of(answering)
    try:
        found = versions_of(root)
    except VersionError as error:
        return {"versions": [], "note": str(error)}
    waiting = [each.number for each in found if each.active and each.folder.resolve() != answering.resolve()]
    note = f"Version {waiting[0]} is active, and answers here once the service is started again." if waiting else ""
    return {"versions": [_version_json(each, root, answering) for each in found], "note": note}


def _version_json(version: Version, root: Path, answering: Path) -> dict[str, Any]:
    about: dict[str, Any] = {
        "number": version.number,
        "active": version.active,
        "answering": version.folder.resolve() == answering.resolve(),
        "command": f"sage-jax use {root} --version {version.number}",
    }
    if not version.report:
        return about
    report = version.report
    trained, held_out = len(report["learnt"]["trained"]), len(report["learnt"]["held_out"])
    about |= {name: report[name] for name in ("time", "from_version", "offered", "why")}
    about["measures"] = {MEASURES.get(name, name): found for name, found in report["measures"].items()}
    return about | {"learnt": f"learnt from {trained} corrected images, measured on {held_out} held out"}


def keep_requests(run: Run, service: Service, store: CorrectionStore) -> None:
    """Has a service keep what comes over HTTP, before it is answered."""

    def kept(request: Request, found: Finding) -> None:
        one = found.inspection
        if one.score is None:
            return
        references = request.references
        if references is None:
            references = service.references.for_image(request.name, run.config.num_references)
        finding = finding_of(
            one,
            request.image,
            [reference.image for reference in references],
            threshold=service.model.thresholds[one.num_references > 0].value,
            model=service.revision,
            source="http",
            language=run.config.data.language,
        )
        keep(store, dataclasses.replace(finding, name=request.name), one.anomaly_map)

    service.keep = kept
