"""The runs that `kill` kills: between them, every stage with an end but `plan` and `learn`, in a few steps each.

All have validation, and checkpoints within their stages; stored features, data workers, LoRA, facts of a model, an
endpoint and what a run may end with are spread over them, so that one run is short.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from sage_jax.config import DataConfig
from sage_jax.data.sources.generated import draw
from sage_jax.process.files import replace_file
from tests.campaign.kill import Process, Start, kill_runs
from tests.campaign.report import Report, chosen
from tests.support.endpoint_server import Served, marks, served
from tests.support.question_sets import write_mmad
from tests.support.tiny_run import compiled_in, fork_main, start_main

_SHORT: Final = (
    "base.steps=4",
    "base.checkpoint_every=2",
    "sfe.steps=6",
    "sfe.checkpoint_every=2",
    "sfe.eval_every=3",
    "edpo.steps=3",
    "edpo.checkpoint_every=1",
    "dpo.checkpoint_every=1",
    "data.validation_fraction=0.2",
    "evaluate.num_records=4",
    "evaluate.batch_size=2",
    "inspect.max_images=2",
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of run.

    Attributes:
      stages: What it does.
      last: Training stage that is evaluated and exported.
      fields: Its fields, as `section.field=value`.
    """

    stages: str
    last: str
    fields: tuple[str, ...]

    def overrides(self, inputs: Path, url: str) -> tuple[str, ...]:
        """Its arguments; files are those of `write_inputs`, `url` is an endpoint."""
        given = (
            f"stages={self.stages}",
            f"evaluate.stages=('{self.last}',)",
            f"calibrate.good={inputs / 'good'}",
            "calibrate.false_alarm_rate=0.2",
            f"benchmark.root={inputs / 'sets' / 'mmad.json'}",
            "benchmark.shots=(0,)",
            "benchmark.num_questions=6",
            f"judge.base_url={url}",
            "judge.model=judge",
        )
        return tuple(f"--config.{field}" for field in (*_SHORT, *given, *self.fields))


KINDS: Final[dict[str, Kind]] = {
    "features": Kind("prepare,rows,base,sfe,evaluate,inspect,export", "sfe", ("data.vit_features=disk",)),
    "preferences": Kind("check,prepare,base,sfe,dpo,edpo,evaluate", "edpo", ("data.vit_features=memory",)),
    "LoRA": Kind(
        "prepare,base,sfe,calibrate,export",
        "sfe",
        ("sfe.lora.rank=2", "sfe.lora.base=int8", "data.vit_features=disk", "data.num_workers=1"),
    ),
    "facts": Kind(
        "prepare,base,facts,base_dpo,export",
        "base_dpo",
        (
            "data.facts=model",
            "facts.max_tokens=4",
            "data.vit_features=disk",
            "data.num_workers=1",
            "base_dpo.lora.rank=2",
            "base_dpo.accumulate=2",
        ),
    ),
    "questions": Kind("prepare,base,plain,evaluate,judge,benchmark", "plain", ("plain.checkpoint_every=1",)),
    "ablation": Kind("prepare,ablate", "base", ("ablate.seeds=(0,1)",)),
}


def kill_kinds(folder: Path, number: int, seed: int, *, only: str, say: Callable[[str], None]) -> Report:
    """Kills runs of all kinds in turn; see `kill_runs`.

    Args:
      only: Kinds, with commas between; "" = all.
    """
    names = chosen(only, KINDS)
    folder.mkdir(parents=True, exist_ok=True)
    inputs = folder / "inputs"
    write_inputs(inputs)
    with judge(folder / "port") as url:
        begun = starts(inputs, url)
        return kill_runs(folder, number, seed, kinds={name: begun[name] for name in names}, say=say)


def starts(inputs: Path, url: str) -> dict[str, Start]:
    """What starts each kind of run, on the files of `write_inputs` and an endpoint."""

    def of(kind: Kind) -> Start:
        def start(folder: Path, cold: bool) -> Process:
            with (folder / "said.txt").open("a") as said:
                begin = start_main if cold else fork_main
                return begin(folder, *kind.overrides(inputs, url), environment=compiled_in(folder), stderr=said)

        return start

    return {name: of(kind) for name, kind in KINDS.items()}


def write_inputs(folder: Path) -> None:
    """Good images to calibrate on and a question set, in a folder; those that are there stay."""
    if (folder / "sets").exists():
        return
    good = folder / "good"
    good.mkdir(parents=True)
    drawn = (image for image in draw(DataConfig(num_train=30, num_test=1, image_px=40), "train", 9))
    for index, image in enumerate([image for image in drawn if not image.defects][:6]):
        (good / f"{index}.png").write_bytes(image.test_image)
    write_mmad(folder / "sets")


@contextlib.contextmanager
def judge(port: Path) -> Iterator[str]:
    """Address of an endpoint that judges; what it says depends on the request alone.

    Args:
      port: File that keeps where it listens: addresses are part of configs, which are compared.
    """

    def respond(body: dict[str, Any], number: int) -> Served:
        return marks(accuracy=1 + len(str(body["messages"])) % 5)

    with served(respond, int(port.read_text()) if port.exists() else 0) as server:
        replace_file(port, str(server.server_port))
        yield server.url
