"""The model card of an exported model: README.md with the hub's metadata, from what the run wrote down.

Nothing in it is guessed. What nobody stated, a licence above all, is said to be missing.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import huggingface_hub
import jinja2

from sage_jax.config import ModelConfig
from sage_jax.data.adpl.wording import INSPECTION_QUESTIONS
from sage_jax.data.trees.chat import FactsAs
from sage_jax.hf.config_fields import Dtype, Layout, TextModel
from sage_jax.hf.original_code import code_files, copy_command
from sage_jax.verdict import Language

_PLACES: Final = ("root", "images_root", "cache_dir", "vocabulary", "num_workers", "prefetch")
"""Fields of the data that name folders of the machine, or nothing that a reader needs."""
_LOGGING: Final = ("log_every", "eval_every", "checkpoint_every", "keep_last")
_LICENCE_FILES: Final = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*")


@dataclasses.dataclass(frozen=True)
class Base:
    """What a base model says of itself.

    Attributes:
      name: Its name on the hub if it is known, else that of its folder.
      licence: `license`, `license_name` and `license_link` of its card; those that it has.
      on_hub: Whether `name` is a name on the hub.
    """

    name: str
    licence: Mapping[str, str]
    on_hub: bool


@dataclasses.dataclass(frozen=True)
class CardContent:
    """What a card says.

    Attributes:
      name: Repository on the hub, or of the folder.
      stage: Stage whose model it is.
      text_model: Decoder.
      base: The published weights it started from, or None where it was trained from scratch.
      license: Licence of the exported model as its publisher states it; "" = not stated.
      data_license: Terms of the training data as they are stated; "" = not stated.
      recipe: Each trained stage with the fields it was trained under, in order; empty for a base's own weights.
      data: Fields of the data set that the last of them was trained on; empty without any.
      data_counts: Its revision and its numbers of records, `train` and `test`; empty where they were not recorded.
      model: Sizes.
      metrics: Metrics of the stage by mode and name, as in `summary.json`; empty where there are none.
      headings: Name of each metric in words.
      scored_revision: Revision of the data that they were measured on.
      no_scores: Why there are none.
      template_note: What the layout cannot say of the conversation and of the encoder.
      language: What its questions and answers are written in.
    """

    name: str
    stage: str
    layout: Layout
    text_model: TextModel
    dtype: Dtype
    facts_as: FactsAs
    base: Base | None
    license: str
    data_license: str
    recipe: Sequence[tuple[str, Mapping[str, Any]]]
    data: Mapping[str, Any]
    data_counts: Mapping[str, Any]
    model: ModelConfig
    metrics: Mapping[str, Mapping[str, Any]]
    headings: Mapping[str, str]
    scored_revision: str
    no_scores: str
    template_note: str
    language: Language = "en"


def read_base(folder: Path, name: str) -> Base:
    """What the base's own model card says; a folder without one says nothing.

    Args:
      folder: Its folder.
      name: Its name on the hub as the user states it; "" = its folder's name.
    """
    path = folder / "README.md"
    licence: dict[str, str] = {}
    if path.is_file():
        card = huggingface_hub.ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
        found = card.data.to_dict()
        licence = {key: str(found[key]) for key in ("license", "license_name", "license_link") if found.get(key)}
    return Base(name or folder.name, licence, bool(name))


def licence_files(folder: Path) -> list[Path]:
    """Files of a base's folder that its licence may ask to pass on."""
    return sorted(path for pattern in _LICENCE_FILES for path in folder.glob(pattern) if path.is_file())


def model_card(content: CardContent) -> str:
    """The text of the card."""
    # Markdown, not HTML: nothing to escape.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    source = importlib.resources.files("sage_jax").joinpath("hf", "model_card.md.jinja").read_text(encoding="utf-8")
    text = environment.from_string(source).render(
        header=f"---\n{_metadata(content).to_yaml()}\n---",
        title=f"SAGE: {content.name.rsplit('/', 1)[-1]}",
        name=content.name,
        stage=content.stage,
        question=INSPECTION_QUESTIONS[content.language],
        has_torch_module=content.layout == "internvl",
        code_files=code_files(content.text_model),
        code_command=copy_command(content.text_model, "."),
        facts_as=content.facts_as,
        template_note=content.template_note,
        dtype=content.dtype,
        data=_data_lines(content),
        recipe=[{"stage": stage, "fields": _fields(fields)} for stage, fields in content.recipe],
        sizes=_fields(_sizes(content.model)),
        scores=_scores(content),
        scored_revision=content.scored_revision,
        no_scores=content.no_scores,
        licence=_licence_lines(content),
    )
    return text.rstrip() + "\n"


def _metadata(content: CardContent) -> huggingface_hub.ModelCardData:
    inherited = content.base.licence if content.base else {}
    licence: dict[str, Any] = {"license": content.license} if content.license else dict(inherited)
    results = [
        huggingface_hub.EvalResult(
            task_type="image-text-to-text",
            dataset_type="sage_jax",
            dataset_name=f"test records of revision {content.scored_revision[:12]}, {mode.replace('_', '-')}",
            metric_type=name,
            metric_value=metric["value"],
        )
        for mode, metrics in content.metrics.items()
        for name, metric in metrics.items()
        if name in content.headings and metric["value"] is not None
    ]
    return huggingface_hub.ModelCardData(
        **licence,
        base_model=content.base.name if content.base and content.base.on_hub else None,
        library_name="transformers" if content.layout == "internvl" else None,
        pipeline_tag="image-text-to-text",
        tags=["sage", "anomaly-detection", "industrial-inspection", "internvl"],
        model_name=content.name.rsplit("/", 1)[-1] if results else None,
        eval_results=results or None,
    )


def _data_lines(content: CardContent) -> list[str]:
    counts, lines = content.data_counts, []
    if content.recipe:
        source = content.data["source"]
        made = " (pictures drawn by sage_jax; no third party's data)" if source == "generator" else ""
        lines.append(f"source: `{source}`{made}")
        if counts:
            lines.append(f"revision: `{counts['revision']}` (hash of its content)")
            lines.append(f"{counts['train']} training and {counts['test']} test records")
        else:
            lines.append("revision and number of records: not recorded by the run")
        fields = {name: value for name, value in content.data.items() if name not in (*_PLACES, "source")}
        if fields.get("language") == "en":
            del fields["language"]
        lines.append("; ".join(f"{name} {value}" for name, value in _fields(fields)))
    if content.base:
        before = "before that, what" if content.recipe else "what"
        lines.append(f"{before} the base, {content.base.name}, was trained on: see its own card")
    return lines


def _sizes(model: ModelConfig) -> dict[str, Any]:
    values = dataclasses.asdict(model)
    del values["weights"]
    return values


def _fields(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Fields and values of a config, sections inside it by their path."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _fields(value, f"{prefix}{name}.")
        elif name not in _LOGGING:
            found.append((f"{prefix}{name}", f"`{json.dumps(value, ensure_ascii=False)}`"))
    return found


def _scores(content: CardContent) -> list[dict[str, str]]:
    return [
        {
            "name": heading,
            "mode": mode.replace("_", "-"),
            "value": f"{metrics[name]['value']:.3f}",
            "interval": f"{metrics[name]['low']:.3f} to {metrics[name]['high']:.3f}",
            "n": str(metrics[name]["n"]),
        }
        for mode, metrics in content.metrics.items()
        for name, heading in content.headings.items()
        if metrics.get(name, {}).get("value") is not None
    ]


def _licence_lines(content: CardContent) -> list[str]:
    stated = content.license
    lines = [
        f"this model: {stated}"
        if stated
        else "this model: not stated by who exported it; the terms of base and data apply in any case"
    ]
    if content.base:
        found = ", ".join(f"{value}" for value in content.base.licence.values())
        lines.append(f"base, {content.base.name}: {found or 'its folder has no card that states one'}")
    if content.data_license:
        lines.append(f"training data: {content.data_license}")
    elif content.recipe and content.data["source"] == "generator":
        lines.append("training data: drawn by sage_jax, which is under Apache-2.0")
    elif content.recipe:
        lines.append(f"training data ({content.data['source']}): not stated; see the terms of the data set")
    if content.layout == "internvl":
        lines.append("the Python files of this repository: Apache-2.0")
    return lines
