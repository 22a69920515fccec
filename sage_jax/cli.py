"""The command `sage-jax`: inspect, serve, watch, train, evaluate, judge, calibrate, benchmark, export, plan and check.

Built with cyclopts, which makes options of nested dataclasses with their docstrings, as the config's are; typer would
need every field typed again as a parameter of a function. A command makes a config and runs its stages as
`python -m sage_jax.main` does.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError

from sage_jax.command_options import named, options_of, with_options
from sage_jax.config import TRAINING_STAGES, CalibrateConfig, Config, InspectConfig
from sage_jax.config.command_line import load_config
from sage_jax.config.fields import check_known
from sage_jax.config.shipped import shipped_configs, summary_of
from sage_jax.errors import ConfigError, UserError
from sage_jax.process.allocator import restart_with_huge_pages
from sage_jax.process.libraries import quieten_libraries
from sage_jax.process.shortages import told
from sage_jax.process.standard_streams import run_with_any_output
from sage_jax.process.version import own_version
from sage_jax.version_commands import corrections, use, versions

_COMPUTING: Final = ("inspect", "serve", "watch", "train", "evaluate", "calibrate", "benchmark", "export", "learn")

app: Final = App(
    name="sage-jax",
    help="SAGE in JAX: inspects parts against good ones, and says what is wrong, where, and why.",
    version=own_version,
    default_parameter=Parameter(negative_iterable=()),
)
app.register_install_completion_command()
for command in (corrections, versions, use):
    app.command(command)


def _command(*sections: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Makes a command of a function; its parameter `fields` takes the fields of these sections; none = all."""

    def register(function: Callable[..., int]) -> Callable[..., int]:
        options = Parameter(name="*")(options_of(Config, only=sections))
        function.__annotations__["fields"] = options | None
        return app.command(function)

    return register


@_command("run_dir", "seed", "data", "mesh", "evaluate", "inspect")
def inspect(
    images: str,
    /,
    *,
    model: str,
    references: str | None = None,
    output: str | None = None,
    category: str | None = None,
    threshold: float | None = None,
    stage: str | None = None,
    fields: Any = None,
) -> int:
    """Inspect images: verdict, score, reason, map and a report.

    Args:
      images: An image, a folder, or a text file with a path a line.
      model: A run folder, an exported folder, or a folder of a released InternVL checkpoint.
      references: A good image, or a folder of good images matched by file name; none = each image is judged alone.
      output: Folder of the results; none = `inspect` of the run folder.
      category: Kind of part, for question and facts.
      threshold: Anomaly score from which the verdict is "defective".
      stage: Training stage whose model answers; none = the last trained one.
    """
    from sage_jax.stages.open_model import config_of

    given = named(output=output, category=category, threshold=threshold, stage=stage)
    config = with_options(config_of(model), fields, inspect={"images": images, **named(references=references), **given})
    return _run(dataclasses.replace(config, stages="inspect"))


@_command("data", "mesh", "evaluate", "inspect", "serve", "watch", "review")
def serve(
    *,
    model: str,
    references: str | None = None,
    host: str | None = None,
    port: int | None = None,
    threshold: float | None = None,
    stage: str | None = None,
    fields: Any = None,
) -> int:
    """Serve a model over HTTP: /v1/inspect and an OpenAI-compatible /v1/chat/completions, until it is stopped.

    Args:
      model: A run folder, an exported folder, or a folder of a released InternVL checkpoint.
      references: A good image, or a folder of good images that requests name.
      host: Address to listen on; none = 127.0.0.1, which is reached from this machine alone.
      port: Its port; none = 8000.
      threshold: Anomaly score from which the verdict is "defective"; none = the calibrated one.
      stage: Training stage whose model answers; none = the last trained one.
    """
    from sage_jax.stages.open_model import config_of

    inspect = named(references=references, threshold=threshold, stage=stage)
    config = with_options(config_of(model), fields, inspect=inspect, serve=named(host=host, port=port))
    return _run(dataclasses.replace(config, stages="serve"))


@_command("data", "mesh", "evaluate", "inspect", "serve", "watch")
def watch(
    folder: str,
    /,
    *,
    model: str,
    references: str | None = None,
    output: str | None = None,
    webhook: str | None = None,
    category: str | None = None,
    threshold: float | None = None,
    stage: str | None = None,
    fields: Any = None,
) -> int:
    """Watch a folder: inspect new images as they come, until it is stopped; results as JSON lines, and to a webhook.

    Args:
      folder: The folder; its subfolders are watched too.
      model: A run folder, an exported folder, or a folder of a released InternVL checkpoint.
      references: A good image, or a folder of good images matched by file name; none = each image is judged alone.
      output: Folder of the results; none = `watch` of the run folder.
      webhook: Address that each result is posted to.
      category: Kind of part, for question and facts.
      threshold: Anomaly score from which the verdict is "defective"; none = the calibrated one.
      stage: Training stage whose model answers; none = the last trained one.
    """
    from sage_jax.stages.open_model import config_of

    inspect = named(references=references, category=category, threshold=threshold, stage=stage)
    watched = named(folder=folder, output=output, webhook=webhook)
    config = with_options(config_of(model), fields, inspect=inspect, watch=watched)
    return _run(dataclasses.replace(config, stages="watch"))


@_command()
def train(config: str, /, *, fields: Any = None) -> int:
    """Run the stages of a config, from data to report; the same command goes on after a stop.

    Args:
      config: A config file, or the name of a shipped one (`sage-jax configs`). Options replace its fields.
    """
    return _run(with_options(load_config(config), fields))


@_command("seed", "data", "mesh", "evaluate")
def evaluate(run: str, /, *, fields: Any = None) -> int:
    """Score the trained stages of a run on its test records.

    Args:
      run: A run folder.
    """
    return _stage("evaluate", run, fields)


@_command("seed", "data", "mesh", "evaluate", "judge")
def judge(run: str, /, *, fields: Any = None) -> int:
    """Judge the answers of an evaluated run by a language model behind an OpenAI-compatible endpoint.

    Args:
      run: A run folder that `evaluate` has scored.
    """
    return _stage("judge", run, fields)


@_command("run_dir", "data", "mesh", "inspect")
def calibrate(
    good: str,
    /,
    *,
    model: str,
    defective: str | None = None,
    references: str | None = None,
    false_alarms: float | None = None,
    escapes: float | None = None,
    unsure: float | None = None,
    fields: Any = None,
) -> int:
    """Choose the threshold of a run by good images that nobody trained on; `inspect` then uses it.

    Args:
      good: A folder of good images, or a text file with a path a line.
      model: A run folder.
      defective: Defective ones, likewise, for what is known of escapes.
      references: A good image, or a folder of good images, as `inspect` takes them; none = those that the run
        inspected with.
      false_alarms: Share of good images that may be called defective; none = 0.05.
      escapes: Share of defective images that may be called good, with 95 % confidence; none = whatever comes.
      unsure: Share of good images that may be called unsure for being unlike these; none = 0.02; 0 = no image ever is.
    """
    from sage_jax.stages.open_model import config_of

    rates = {"false_alarm_rate": false_alarms, "escape_rate": escapes, "unsure_rate": unsure}
    given = {"good": good, "defective": defective or "", "references": references or ""}
    named = {name: getattr(CalibrateConfig(), name) if rate is None else rate for name, rate in rates.items()}
    # What `inspect` once set by hand stays in the run's config, and would win over what is found now.
    inspect = {"threshold": InspectConfig().threshold}
    config = with_options(config_of(model), fields, calibrate={**given, **named}, inspect=inspect)
    return _run(dataclasses.replace(config, stages="calibrate"))


@_command("seed", "data", "mesh", "learn", "evaluate")
def learn(*, model: str, accept: bool = False, fields: Any = None) -> int:
    """Let a run learn from its corrections: a version is trained, measured before and after, and offered.

    Args:
      model: A run folder whose inspections were corrected.
      accept: Use the version at once where it is offered.
    """
    from sage_jax.stages.open_model import config_of

    config = with_options(config_of(model), fields, **({"learn": {"accept": True}} if accept else {}))
    return _run(dataclasses.replace(config, stages="learn"))


@_command("run_dir", "data", "text", "mesh", "evaluate", "benchmark")
def benchmark(
    name: str,
    questions: str,
    /,
    *,
    model: str,
    images: str | None = None,
    stage: str | None = None,
    fields: Any = None,
) -> int:
    """Ask a model a public question set; the same command goes on after a stop.

    Args:
      name: `mmad`, or `manta` for MANTA and MPDD QA.
      questions: The set's JSON file, such as mmad.json.
      model: A run folder, an exported folder, or a folder of a released InternVL checkpoint.
      images: Folder that the set's image paths are relative to; none = that of the JSON.
      stage: Training stage whose model answers; none = the last trained one.
    """
    from sage_jax.stages.open_model import config_of

    given = {"name": name, "root": questions, "images_root": images or "", "stage": stage or ""}
    config = with_options(config_of(model), fields, benchmark=given)
    return _run(dataclasses.replace(config, stages="benchmark"))


@_command("mesh", "evaluate", "export")
def export(run: str, /, *, fields: Any = None) -> int:
    """Write a trained stage as a folder that transformers loads.

    Args:
      run: A run folder.
    """
    return _stage("export", run, fields)


@_command("run_dir", "seed", "data", "text", "model", "mesh", *TRAINING_STAGES, "evaluate", "plan")
def plan(config: str, /, *, fields: Any = None) -> int:
    """Print the memory, time and communication of training stages on devices that need not be there.

    Args:
      config: A config file, or the name of a shipped one.
    """
    return _run(dataclasses.replace(with_options(load_config(config), fields), stages="plan"))


@_command("run_dir", "seed", "data")
def check(config: str, /, *, fields: Any = None) -> int:
    """List the faults of a data set, each with its cure.

    Args:
      config: A config file, or the name of a shipped one.
    """
    return _run(dataclasses.replace(with_options(load_config(config), fields), stages="check"))


@app.command
def configs(name: str = "", /, *, to: Path | None = None) -> int:
    """List the shipped configs, or copy one.

    Args:
      name: The config to copy; none = list all.
      to: File to copy it to; none = NAME.py.
    """
    shipped = shipped_configs()
    if not name:
        for each, path in shipped.items():
            print(f"{each:14} {summary_of(path)}")
        return 0
    if name not in shipped:
        raise ConfigError(f"{name}: there is no shipped config of that name; there are {', '.join(shipped)}")
    target = to or Path(f"{name}.py")
    if target.exists():
        raise ConfigError(f"{target} is there already: give another file with --to")
    shutil.copyfile(shipped[name], target)
    print(f"{target}: train with `sage-jax train {target}`")
    return 0


def _stage(name: str, run: str, options: Any) -> int:
    from sage_jax.stages.open_model import config_of

    return _run(dataclasses.replace(with_options(config_of(run), options), stages=name))


def _run(config: Config) -> int:
    from sage_jax.main import run_program

    return run_program(config, ["sage-jax", *sys.argv[1:]])


def program() -> int:
    """The program `sage-jax`: as `main`, with huge pages where a model computes, and whatever its output is."""
    return run_with_any_output(_program)


def _program() -> int:
    if sys.argv[1:2] and sys.argv[1] in _COMPUTING:
        restart_with_huge_pages()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Returns:
      Exit status: 0 when done, or stopped where it can go on; 2 for a fault that the user can mend, told in one
      message; 130 when aborted.
    """
    quieten_libraries()
    try:
        with told():
            found = app(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except UnknownOptionError as error:
        return _failed(_no_such_option(error))
    except (UserError, CycloptsError) as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return 130
    return found if isinstance(found, int) else 0


def _no_such_option(error: UnknownOptionError) -> str:
    """The message about an unknown option: the field that is meant, or a synonym's, else cyclopts' own."""
    option = error.token.keyword or ""
    try:
        check_known(option.lstrip("-").removeprefix("config.").replace("-", "_"))
    except ConfigError as fault:
        return f"{option}: no such option; " + re.sub(
            r"--config\.([\w.]+)", lambda field: f"--{field[1].replace('_', '-')}", str(fault).partition("; ")[2]
        )
    return f"{option}: not an option of this command; the command `train` takes every field"


def _failed(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2
