"""Stage `ablate`: base, plain facts, SFE, DPO and E-DPO over several seeds, in one table; and over F and K."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import rich.console

from sage_jax.config import Config
from sage_jax.journal.ablation import ablation_tables, write_ablation
from sage_jax.journal.summary import load_summary
from sage_jax.journal.sweep import sweep_table, write_sweep
from sage_jax.process.stop_request import stop_if_asked
from sage_jax.stages.run import Run, Stage, StageCost


def ablate(stage: Stage, run_stage: Callable[[Run, str], None]) -> StageCost:
    """Trains and scores the ablation's models for each seed in a run of its own; writes the table over seeds.

    With `ablate.max_facts` or `ablate.num_distinct` this is done for each value, in a folder of its own, and one table
    has all values.

    Args:
      run_stage: Runs a stage of such a run by its name.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in variants(stage.config):
        ablation = _over_seeds(stage, name, run_stage)
        if ablation is not None:
            found[name] = ablation
    if jax.process_index() == 0 and [*found] != [""]:
        console = rich.console.Console(width=max(100, rich.console.Console().width))
        console.print(sweep_table(write_sweep(stage.run.folder.path, found, stage.config.ablate.stages[-1])))
    return StageCost()


def _over_seeds(stage: Stage, variant: str, run_stage: Callable[[Run, str], None]) -> dict[str, Any] | None:
    """Trains and scores a variant with each seed; its table, which the first process alone has."""
    run, config = stage.run, stage.config
    summaries, folders = {}, {}
    for seed in config.ablate.seeds:
        one = seed_run(run, seed, variant)
        stage.log.line(f"{variant}, seed {seed}" if variant else f"seed {seed}")
        one.folder.write_config(one.config)
        facts = ["facts"] if config.data.facts == "model" else []
        for name in ("prepare", *_with_facts(config.ablate.stages, facts), "evaluate"):
            stop_if_asked(f"stopped before stage {name} of {variant or 'the ablation'}, seed {seed}")
            run_stage(one, name)
        summaries[seed], folders[seed] = load_summary(one.folder.summary), one.folder.path
    if jax.process_index() > 0:
        return None
    ablation = write_ablation(run.folder.path / variant, summaries, folders)
    if not variant:
        console = rich.console.Console(width=max(100, rich.console.Console().width))
        console.print(ablation_tables(ablation))
    return ablation


def _with_facts(stages: tuple[str, ...], facts: list[str]) -> list[str]:
    """The training stages with the stage that writes facts behind `base`, which may write them."""
    behind = 1 if stages[:1] == ("base",) else 0
    return [*stages[:behind], *facts, *stages[behind:]]


def variants(config: Config) -> dict[str, Config]:
    """The configs that the ablation trains, by the name of their folder; "" = the config itself alone."""
    found = {}
    for number in config.ablate.max_facts:
        text = dataclasses.replace(config.text, max_facts=number)
        found[f"max_facts_{number}"] = dataclasses.replace(config, text=text)
    for number in config.ablate.num_distinct:
        fusion = dataclasses.replace(config.model.fusion, num_distinct=number)
        found[f"num_distinct_{number}"] = dataclasses.replace(
            config, model=dataclasses.replace(config.model, fusion=fusion)
        )
    return found or {"": config}


def seed_run(run: Run, seed: int, variant: str = "") -> Run:
    """The run that `ablate` makes for a seed of a variant, in a folder of its own."""
    config = variants(run.config)[variant]
    evaluate = dataclasses.replace(config.evaluate, stages=config.ablate.stages)
    folder = str(run.folder.path / variant / f"seed_{seed}")
    return Run(dataclasses.replace(config, run_dir=folder, seed=seed, evaluate=evaluate))
